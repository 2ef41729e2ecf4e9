"""Cliente de la sala: un hilo envía, otro recibe, y el principal espera.

    teclado ──▶ enviar ──▶ servidor ──▶ recibir ──▶ pantalla

`recibir` conecta, escucha y, si se corta, vuelve a conectar; cada conexión se la pasa a `enviar`, que es quien la
cierra. `enviar` espera a la vez al teclado, al socket y a un aviso, así que nada lo deja parado: ni un servidor que
frena ni una persona que no escribe. Una línea sigue entre las pendientes hasta que se ha enviado entera.

Por la salida estándar va lo que dice la sala; por la de errores, lo que dice el programa: así sirve en una tubería.
"""

import collections
import os
import random
import select
import signal
import socket
import sys
import threading
import time

import protocolo
from config import PUERTO, TAM_LECTURA, AjustesCliente, leer_opciones

EN_WINDOWS = os.name == 'nt'


# ── Entrada y salida ─────────────────────────────────────────────────────────────────────────────────────────────

class Teclado:
    """La entrada estándar, línea a línea, sea teclado, tubería o archivo.

    Se lee sin pasar por `sys.stdin`: su búfer esconde a `select` líneas que ya han llegado, y un hilo parado en él no
    deja terminar al intérprete.
    """

    def __init__(self, max_linea):
        self._lector = protocolo.Lineas(max_linea)
        self._lineas = collections.deque()
        self.agotado = sys.stdin is None        # «python cliente.py <&-»
        self.hay_persona = not self.agotado and sys.stdin.isatty()
        if not self.agotado:
            self._abrir()

    def _abrir(self):
        descriptor = sys.stdin.fileno()
        if not EN_WINDOWS:
            self.fileno, self._recibir = lambda: descriptor, lambda: os.read(descriptor, TAM_LECTURA)
            return
        # En Windows `select` solo admite sockets: un hilo copia la entrada a uno. daemon: está siempre parado leyendo,
        # y solo el final del programa lo saca de ahí.
        destino, origen = socket.socketpair()
        self.fileno, self._recibir = origen.fileno, lambda: origen.recv(TAM_LECTURA)
        threading.Thread(target=_copiar_entrada, args=(sys.stdin.buffer.raw, destino), daemon=True).start()

    def leer(self):
        """Lee una vez, cuando `select` dice que se puede, y devuelve las líneas que se completan."""
        try:
            datos = self._recibir()
        except OSError:
            datos = b''     # la terminal ha desaparecido
        lineas = self._lector.recibir(datos) if datos else self._lector.terminar()
        if self._lector.rebosa:
            decir('La entrada trae una línea descomunal, que no es texto: no leo más.')
        self.agotado = not datos or self._lector.rebosa
        return lineas

    def linea(self):
        """Espera la siguiente línea. `None`: se acabó la entrada."""
        while not self._lineas and not self.agotado:
            select.select([self], [], [])
            self._lineas.extend(self.leer())
        return self._lineas.popleft() if self._lineas else None

    def leidas(self):
        """Las líneas que llegaron junto a otra y nadie ha pedido aún."""
        lineas, self._lineas = self._lineas, collections.deque()
        return lineas


def _copiar_entrada(origen, destino):
    with destino:
        while datos := origen.read(TAM_LECTURA):
            destino.sendall(datos)


def decir(texto, fin='\n'):
    """Lo que dice el programa."""
    try:
        print(texto, end=fin, file=sys.stderr, flush=True)
    except OSError:
        pass    # no hay quien lo lea


# ── Preguntas ────────────────────────────────────────────────────────────────────────────────────────────────────

def preguntar(teclado, pregunta, comprobar):
    """Pregunta hasta que `comprobar` acepte la respuesta, y devuelve su valor; `None` si la persona quiere irse.

    `comprobar` explica con un `ValueError` por qué no la acepta.
    """
    while True:
        decir(pregunta, fin=' ' if teclado.hay_persona else '\n')
        respuesta = teclado.linea()
        if respuesta is None or protocolo.es_salida(respuesta) or respuesta.strip().casefold() == 'salir':
            return None
        try:
            return comprobar(respuesta.strip())
        except ValueError as motivo:
            decir(str(motivo))


def comprobar_puerto(texto):
    """El puerto que dice `texto`, de 0 a `PUERTO`, como siempre en clase; vacío o 0 es `PUERTO`."""
    if not texto:
        return PUERTO
    if not (texto.isascii() and texto.isdigit() and int(texto) <= PUERTO):
        raise ValueError(f'«{texto}» no vale: escribe un número de 0 a {PUERTO}, o Enter para el {PUERTO}. '
                         'Para irte, escribe salir.')
    return int(texto) or PUERTO


def comprobar_nick(texto):
    """`texto`, si vale como nick tal como está."""
    if not texto:
        raise ValueError(f'Hace falta un nick: {protocolo.REGLA_NICK}.')
    if not protocolo.nick_correcto(texto):
        raise ValueError(f'«{texto}» no vale: un nick tiene {protocolo.REGLA_NICK}.')
    return protocolo.arreglar_nick(texto)


# ── La charla ────────────────────────────────────────────────────────────────────────────────────────────────────

class Charla:
    """Los dos hilos y lo que comparten. Ha terminado cuando lo dice el suceso `fin`."""

    def __init__(self, ajustes, puerto, nick, teclado):
        self._ajustes, self._teclado = ajustes, teclado
        self._servidor = (ajustes.host, puerto)
        self._espera = ajustes.espera
        if self._espera is None:
            self._espera = float('inf') if teclado.hay_persona else ajustes.espera_sin_teclado
        self.fin = threading.Event()
        self.codigo = 0                             # de salida del programa; lo pone `recibir`
        self._nick = nick                           # el último que confirmó el servidor; lo pone `recibir`
        self._pendientes = collections.deque()      # líneas por enviar; de `enviar`, como lo que sigue
        self._en_curso = b''                        # lo que falta de la primera pendiente
        self._conexion = None                       # por donde se envía
        self._saliendo = False                      # la persona se va, o se acabó la entrada
        self._despedida = False                     # el #LOGOUT ya ha salido
        self._conexiones = collections.deque()      # de `recibir` a `enviar`: (conexión, si empieza o se cortó)
        self._interrumpida = False                  # Ctrl+C; lo pone el hilo principal
        self._aviso, self._timbre = socket.socketpair()     # saca a `enviar` de su espera
        self._timbre.setblocking(False)
        # Los acaba `terminar`. daemon: un intento de conexión no se deja interrumpir.
        self._hilos = [threading.Thread(target=objetivo, name=objetivo.__name__, daemon=True)
                       for objetivo in (self.enviar, self.recibir)]

    def empezar(self):
        """Pone en marcha los dos hilos."""
        for hilo in self._hilos:
            hilo.start()

    def despedirse(self):
        """Ctrl+C: el servidor lo sabrá, si está ahí; no se le espera más de `plazo_despedida`."""
        self._interrumpida = True
        self._despertar()
        self.fin.wait(self._ajustes.plazo_despedida)

    def terminar(self):
        """Acaba con los dos hilos, esté cada uno donde esté, y devuelve cuántas líneas quedaron sin enviar."""
        self.fin.set()
        self._despertar()
        for hilo in self._hilos:
            hilo.join(self._ajustes.plazo_despedida)
        for conexion, _ in self._conexiones:
            conexion.close()
        self._aviso.close()
        self._timbre.close()
        return len(self._pendientes) - (self._saliendo and not self._despedida)

    def _despertar(self):
        try:
            self._timbre.send(b'!')
        except BlockingIOError:
            pass    # ya tiene avisos de sobra

    # Hilo que envía. Acaba cuando se pone `fin`

    def enviar(self):
        """Lee el teclado y envía lo pendiente, según se pueda una cosa u otra."""
        self._encolar(self._teclado.leidas())
        while not self.fin.is_set():
            leer = [self._aviso] + [self._teclado] * self._quiere_leer()
            escribir = [self._conexion] if self._conexion and self._pendientes else []
            listos, puede, _ = select.select(leer, escribir, [])
            if puede:
                self._enviar_algo()
            if self._teclado in listos:
                self._encolar(self._teclado.leer())
            if self._aviso in listos:
                self._atender_aviso()
        if self._conexion:
            apagar(self._conexion)      # saca a `recibir` de su espera

    def _quiere_leer(self):
        """A una persona se le atiende siempre; de una tubería no se lee más de lo que se puede guardar."""
        if self._saliendo:
            return False
        return self._teclado.hay_persona or len(self._pendientes) < self._ajustes.max_pendientes

    def _encolar(self, lineas):
        for linea in lineas:
            clase, texto = protocolo.interpretar(linea, ())
            if clase == protocolo.SALIDA:
                self._marcharse()
                return
            if clase == protocolo.LARGO:
                decir(protocolo.aviso_largo(texto))
            elif clase != protocolo.NADA:
                self._pendientes.append(linea)
        if self._teclado.hay_persona and not self._conexion:
            self._olvidar_sobrantes()
        if self._teclado.agotado:
            self._marcharse()

    def _olvidar_sobrantes(self):
        sobran = len(self._pendientes) - self._ajustes.max_pendientes
        for _ in range(sobran):
            self._pendientes.popleft()
        if sobran > 0:
            decir(f'Sin conexión solo guardo las últimas {self._ajustes.max_pendientes} líneas: '
                  f'he olvidado {sobran} de las primeras.')

    def _marcharse(self):
        """El #LOGOUT va detrás de lo pendiente. Si no hay a quién enviarlo, una persona no tiene por qué esperar."""
        if not self._saliendo:
            self._saliendo = True
            self._pendientes.append('#LOGOUT')
        if not self._conexion and (self._teclado.hay_persona or self._interrumpida):
            self.fin.set()

    def _enviar_algo(self):
        self._en_curso = self._en_curso or protocolo.codificar(self._pendientes[0])
        try:
            enviados = self._conexion.send(self._en_curso)
        except BlockingIOError:
            return
        except OSError:
            apagar(self._conexion)      # `recibir` lo notará y avisará del corte
            self._conexion = None
            return
        self._en_curso = self._en_curso[enviados:]
        if not self._en_curso:
            self._pendientes.popleft()
            self._despedida = self._saliendo and not self._pendientes

    def _atender_aviso(self):
        self._aviso.recv(4096)
        while self._conexiones:
            conexion, empieza = self._conexiones.popleft()
            self._conexion, self._en_curso = (conexion if empieza else None), b''
            if not empieza:
                conexion.close()
        if self._saliendo or self._interrumpida:
            self._marcharse()

    # Hilo que recibe. Acaba cuando se pone `fin`, o lo pone él al rendirse o al irse

    def recibir(self):
        """Conecta y muestra lo que llega; si se corta, vuelve a conectar."""
        limite = time.monotonic() + self._espera
        pausa, explicado = self._ajustes.pausa_minima, False
        while not self.fin.is_set():
            try:
                conexion = self._conectar()
            except OSError as error:
                if not explicado:
                    decir(self._explicar(error))
                    explicado = True
            else:
                if self._escuchar(conexion):
                    limite = time.monotonic() + self._espera
                    pausa, explicado = self._ajustes.pausa_minima, False
                self._entregar(conexion, False)
                if self._despedida or self.fin.is_set():
                    break
                decir('Se ha cortado la conexión; intento volver. Lo que escribas se enviará entonces.')
            queda = limite - time.monotonic()
            if queda <= 0:
                decir(f'Lo dejo: no ha habido manera en {self._espera:g} segundos.')
                self.codigo = 1
                break
            self.fin.wait(min(queda, pausa * random.uniform(0.8, 1.2)))
            pausa = min(pausa * 1.6, self._ajustes.pausa_maxima)
        self.fin.set()
        self._despertar()

    def _conectar(self):
        conexion = socket.create_connection(self._servidor, self._ajustes.plazo_conexion)
        conexion.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        conexion.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conexion.sendall(protocolo.codificar(self._nick))
        conexion.setblocking(False)
        return conexion

    def _entregar(self, conexion, empieza):
        self._conexiones.append((conexion, empieza))
        self._despertar()

    def _escuchar(self, conexion):
        """Muestra lo que llega hasta que se corte. Devuelve si se llegó a entrar en la sala."""
        lector, dentro = protocolo.Lineas(), False
        while datos := recibir_algo(conexion):
            for linea in lector.recibir(datos):
                nick = protocolo.nick_avisado(linea)
                if nick and not dentro:
                    dentro = True
                    decir('Conectado a {}:{}.'.format(*self._servidor))
                    self._entregar(conexion, True)
                self._nick = nick or self._nick
                self._mostrar(linea)
        return dentro

    def _mostrar(self, linea):
        """Lo que dice la sala."""
        try:
            print(linea, flush=True)
        except OSError:     # quien leía de la tubería se ha ido
            sys.stdout = open(os.devnull, 'w')
            self.fin.set()
            self._despertar()

    def _explicar(self, error):
        host, puerto = self._servidor
        insisto = 'Sigo intentándolo; Ctrl+C para dejarlo.' if self._espera == float('inf') else \
            f'Lo intento durante {self._espera:g} segundos.'
        if isinstance(error, socket.gaierror):
            return f'No encuentro la máquina «{host}»: ¿está bien escrita? {insisto}'
        opcion = '' if puerto == PUERTO else f' --puerto {puerto}'
        return f'No hay ningún servidor en {host}:{puerto}. Para arrancarlo, en otra terminal: ' \
               f'python server.py{opcion}\n{insisto}'


def recibir_algo(conexion):
    """Espera a que llegue algo. `b''`: se ha cortado."""
    try:
        select.select([conexion], [], [])
        return conexion.recv(TAM_LECTURA)
    except OSError:
        return b''


def apagar(conexion):
    """`shutdown` de un socket que el otro lado puede haber cortado ya."""
    try:
        conexion.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


# ── El programa ──────────────────────────────────────────────────────────────────────────────────────────────────

def main(argumentos=None):
    """`python cliente.py`. Devuelve el código de salida: 0, 1 si no hay servidor, 2 si las opciones no valen."""
    ajustes = leer_opciones(AjustesCliente, 'cliente.py', 'Cliente de la sala.', argumentos)
    for salida in filter(None, (sys.stdout, sys.stderr)):
        salida.reconfigure(errors='replace')
    for nombre in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGBREAK'):
        if hasattr(signal, nombre):
            signal.signal(getattr(signal, nombre), signal.default_int_handler)
    try:
        return charlar(ajustes)
    except KeyboardInterrupt:
        decir('\nHasta luego.')
        return 0


def charlar(ajustes):
    teclado = Teclado(ajustes.max_linea_leida)
    puerto, nick = ajustes.puerto, ajustes.nick
    if puerto is None:
        puerto = preguntar(teclado, f'Puerto (de 0 a {PUERTO}; Enter = {PUERTO}):', comprobar_puerto)
    if puerto is not None and nick is None:
        nick = preguntar(teclado, 'Nick:', comprobar_nick)
    if puerto is None or nick is None:
        decir('Hasta luego.')
        return 0
    try:
        nick = comprobar_nick(nick.strip())
    except ValueError as motivo:
        decir(f'Error: {motivo}')
        return 2
    charla = Charla(ajustes, puerto or PUERTO, nick, teclado)
    charla.empezar()
    try:
        while not charla.fin.wait(0.5 if EN_WINDOWS else None):     # en Windows, esperar sin plazo no deja ver Ctrl+C
            pass
    except KeyboardInterrupt:
        decir('')
        charla.despedirse()
    finally:
        sin_enviar = charla.terminar()
        if sin_enviar:
            decir(f'Líneas sin enviar: {sin_enviar}.')
    decir('Hasta luego.')
    return charla.codigo


if __name__ == '__main__':
    sys.exit(main())
