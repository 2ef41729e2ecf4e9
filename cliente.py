"""Cliente de la sala: un hilo envía, otro recibe, y el principal espera.

    pantalla ──▶ enviar ──▶ servidor ──▶ recibir ──▶ pantalla

`recibir` conecta, escucha y, si se corta, vuelve a conectar; cada conexión se la pasa a `enviar`, que es quien la
cierra. `enviar` espera a la vez al teclado, al socket y a un aviso, así que nada lo deja parado: ni un servidor que
frena ni una persona que no escribe. Una línea sigue entre las pendientes hasta que se ha enviado entera.

Lo que se ve y se teclea está en `terminal.py`.
"""

import collections
import math
import os
import random
import select
import signal
import socket
import sys
import threading
import time

import protocolo
import terminal
from config import PUERTO, TAM_LECTURA, AjustesCliente, leer_opciones

EN_WINDOWS = os.name == 'nt'


# ── Preguntas ────────────────────────────────────────────────────────────────────────────────────────────────────

def preguntar(pantalla, pregunta, comprobar):
    """Pregunta hasta que `comprobar` acepte la respuesta, y devuelve su valor; `None` si la persona quiere irse.

    `comprobar` explica con un `ValueError` por qué no la acepta.
    """
    while True:
        respuesta = pantalla.preguntar(pregunta)
        if respuesta is None or protocolo.es_salida(respuesta) or respuesta.strip().casefold() == 'salir':
            return None
        try:
            return comprobar(respuesta.strip())
        except ValueError as motivo:
            pantalla.decir(str(motivo))


def comprobar_puerto(texto):
    """El puerto que dice `texto`, de 0 a `PUERTO`, como siempre en clase; vacío o 0 es `PUERTO`."""
    if not texto:
        return PUERTO
    if not (texto.isascii() and texto.isdigit() and len(texto) <= 9 and int(texto) <= PUERTO):
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

    def __init__(self, ajustes, puerto, nick, pantalla):
        self._ajustes, self._pantalla = ajustes, pantalla
        self._servidor = (ajustes.host, puerto)
        self._espera = ajustes.espera
        if self._espera is None:
            self._espera = float('inf') if pantalla.hay_persona else ajustes.espera_sin_teclado
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
        self._reintento = None                      # instante del próximo intento de conexión; lo pone `recibir`
        self._nicks = {nick: None}                  # los que se han visto, para completar; los pone `recibir`
        self._aviso, self._timbre = socket.socketpair()     # saca a `enviar` de su espera
        self._timbre.setblocking(False)
        # Los acaba `terminar`. daemon: un intento de conexión no se deja interrumpir.
        self._hilos = [threading.Thread(target=objetivo, name=objetivo.__name__, daemon=True)
                       for objetivo in (self.enviar, self.recibir)]

    def empezar(self):
        """Pone en marcha los dos hilos."""
        self._pantalla.empezar(self._despertar, self._completar)
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
        enviar, recibir = self._hilos
        if enviar.is_alive():
            enviar.join(self._ajustes.plazo_despedida)
        self._pantalla.terminar()
        if recibir.is_alive():
            recibir.join(self._ajustes.plazo_despedida)
        for conexion, _ in self._conexiones:
            conexion.close()
        self._aviso.close()
        self._timbre.close()
        return len(self._pendientes) - (self._saliendo and not self._despedida)

    def _despertar(self):
        try:
            self._timbre.send(b'!')
        except OSError:
            pass    # ya tiene avisos de sobra, o ya no hay a quién avisar

    # Hilo que envía. Acaba cuando se pone `fin`

    def enviar(self):
        """Lee el teclado y envía lo pendiente, según se pueda una cosa u otra."""
        self._encolar(self._pantalla.leidas())
        while not self.fin.is_set():
            self._pantalla.refrescar(self._estado())
            leer = [self._aviso] + [self._pantalla] * self._quiere_leer()
            escribir = [self._conexion] if self._conexion and self._pendientes else []
            listos, puede, _ = select.select(leer, escribir, [], self._hasta_el_segundo_siguiente())
            if puede:
                self._enviar_algo()
            if self._pantalla in listos:
                self._encolar(self._pantalla.leer())
            if self._aviso in listos:
                self._atender_aviso()
        if self._conexion:
            apagar(self._conexion)      # saca a `recibir` de su espera

    def _quiere_leer(self):
        """A una persona se le atiende siempre; de una tubería no se lee más de lo que se puede guardar."""
        if self._saliendo:
            return False
        return self._pantalla.hay_persona or len(self._pendientes) < self._ajustes.max_pendientes

    def _encolar(self, lineas):
        for linea in lineas:
            clase, texto = protocolo.interpretar(linea, ())
            if clase == protocolo.SALIDA:
                self._marcharse()
                return
            if clase == protocolo.LARGO:
                self._pantalla.decir(protocolo.aviso_largo(texto))
                self._pantalla.devolver(linea)
            elif clase != protocolo.NADA:
                self._pantalla.repetir(linea, self._nick)
                self._pendientes.append(linea)
        if self._pantalla.hay_persona and not self._conexion:
            self._olvidar_sobrantes()
        if self._pantalla.agotada:
            self._marcharse()

    def _olvidar_sobrantes(self):
        sobran = len(self._pendientes) - self._ajustes.max_pendientes
        for _ in range(sobran):
            self._pendientes.popleft()
        if sobran > 0:
            self._pantalla.decir(f'Sin conexión solo guardo las últimas {self._ajustes.max_pendientes} líneas: '
                                 f'he olvidado {sobran} de las primeras.')

    def _marcharse(self):
        """El #LOGOUT va detrás de lo pendiente. Si no hay a quién enviarlo, una persona no tiene por qué esperar."""
        if not self._saliendo:
            self._saliendo = True
            self._pendientes.append('#LOGOUT')
        if not self._conexion and (self._pantalla.hay_persona or self._interrumpida):
            self.fin.set()

    def _enviar_algo(self):
        self._en_curso = self._en_curso or protocolo.codificar(self._pendientes[0])
        # antes de enviar: `recibir` puede ver el cierre del servidor antes de que `send` vuelva
        self._despedida = self._saliendo and len(self._pendientes) == 1
        try:
            enviados = self._conexion.send(self._en_curso)
        except BlockingIOError:
            enviados = 0
        except OSError:
            apagar(self._conexion)      # `recibir` lo notará y avisará del corte
            self._conexion, enviados = None, 0
        self._en_curso = self._en_curso[enviados:]
        if self._en_curso:
            self._despedida = False
        else:
            self._pendientes.popleft()

    def _atender_aviso(self):
        self._aviso.recv(4096)
        while self._conexiones:
            conexion, empieza = self._conexiones.popleft()
            self._conexion, self._en_curso = (conexion if empieza else None), b''
            if not empieza:
                conexion.close()
            elif self._saliendo and not self._pendientes:
                self._pendientes.append('#LOGOUT')      # el anterior se quedó por el camino
        if self._saliendo or self._interrumpida:
            self._marcharse()

    def _estado(self):
        """Lo que antecede a la línea de edición: quién eres, o qué pasa con la conexión, y cuánto espera salir."""
        reintento = self._reintento     # una sola lectura: es de otro hilo
        if self._conexion:
            estado = self._nick
        elif reintento is None:
            estado = 'conectando'
        else:
            estado = f'sin conexión, {max(0, math.ceil(reintento - time.monotonic()))} s'
        espera = len(self._pendientes)
        return f'[{estado}, {espera} por enviar] ' if espera > bool(self._conexion) else f'[{estado}] '

    def _hasta_el_segundo_siguiente(self):
        """Cuánto falta para que cambie la cuenta atrás de `_estado`; `None` si no la hay."""
        reintento = self._reintento
        if self._conexion or reintento is None or not self._pantalla.hay_persona:
            return None
        return max(0, reintento - time.monotonic()) % 1 + 0.001

    def _completar(self, comienzo):
        """Las palabras que pueden ir en lugar de la última de `comienzo`: comandos, o nicks vistos."""
        *anteriores, palabra = comienzo.split(' ')
        if not anteriores and palabra.startswith('/'):
            return [f'{comando} ' for comando in protocolo.COMANDOS if comando.startswith(palabra.casefold())]
        final = ' ' if anteriores else ': '
        return [nick + final for nick in sorted(self._nicks) if nick != self._nick
                and nick.casefold().startswith(palabra.casefold())]

    # Hilo que recibe. Acaba cuando se pone `fin`, o lo pone él al rendirse o al irse

    def recibir(self):
        """Conecta y muestra lo que llega; si se corta, vuelve a conectar."""
        limite = time.monotonic() + self._espera
        pausa, explicado = self._ajustes.pausa_minima, False
        while not self.fin.is_set():
            try:
                conexion = self._conectar()
            except (OSError, UnicodeError) as error:
                if not explicado:
                    self._pantalla.decir(self._explicar(error))
                    explicado = True
            else:
                if self._escuchar(conexion, min(limite, time.monotonic() + self._ajustes.plazo_entrada)):
                    limite = time.monotonic() + self._espera
                    pausa, explicado = self._ajustes.pausa_minima, False
                self._entregar(conexion, False)
                if self._despedida or self.fin.is_set():
                    break
                self._pantalla.decir('Se ha cortado la conexión; intento volver. Lo que escribas se enviará entonces.')
            queda = limite - time.monotonic()
            if queda <= 0:
                self._pantalla.decir(f'Lo dejo: no ha habido manera en {self._espera:g} segundos.')
                self.codigo = 1
                break
            descanso = min(queda, pausa * random.uniform(0.8, 1.2))
            self._reintento = time.monotonic() + descanso
            self._despertar()
            self.fin.wait(descanso)
            self._reintento = None
            pausa = min(pausa * 1.6, self._ajustes.pausa_maxima)
        self.fin.set()
        self._despertar()

    def _conectar(self):
        conexion = socket.create_connection(self._servidor, self._ajustes.plazo_conexion)
        try:
            if conexion.getsockname() == conexion.getpeername():
                raise ConnectionRefusedError    # sin servidor, TCP puede conectar un puerto efímero consigo mismo
            conexion.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conexion.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for nombre, valor in zip(('TCP_KEEPIDLE', 'TCP_KEEPINTVL', 'TCP_KEEPCNT'), self._ajustes.keepalive):
                if hasattr(socket, nombre):     # cada sistema tiene las suyas
                    conexion.setsockopt(socket.IPPROTO_TCP, getattr(socket, nombre), valor)
            conexion.sendall(protocolo.codificar(self._nick))
        except OSError:
            conexion.close()
            raise
        conexion.setblocking(False)
        return conexion

    def _entregar(self, conexion, empieza):
        self._conexiones.append((conexion, empieza))
        self._despertar()

    def _escuchar(self, conexion, limite):
        """Muestra lo que llega hasta que se corte, o si en `limite` no se ha entrado. Devuelve si se llegó a entrar."""
        lector, dentro = protocolo.Lineas(), False
        while datos := recibir_algo(conexion, None if dentro else limite - time.monotonic()):
            for linea in lector.recibir(datos):
                nick = protocolo.nick_avisado(linea)
                if nick and not dentro:
                    dentro = True
                    self._pantalla.decir('Conectado a {}:{}.'.format(*self._servidor))
                    self._entregar(conexion, True)
                self._nick = nick or self._nick
                self._apuntar_nicks(linea)
                try:
                    self._pantalla.mostrar(linea, self._nick)
                except BrokenPipeError:
                    self.fin.set()
                    self._despertar()
                    return dentro
        return dentro

    def _apuntar_nicks(self, linea):
        entran, salen = protocolo.presencia(linea)
        for nick in salen:
            self._nicks.pop(nick, None)
        for nick in entran:
            self._nicks[nick] = None

    def _explicar(self, error):
        host, puerto = self._servidor
        insisto = 'Sigo intentándolo; Ctrl+C para dejarlo.' if self._espera == float('inf') else \
            f'Lo intento durante {self._espera:g} segundos.'
        if isinstance(error, (socket.gaierror, UnicodeError)):
            return f'No encuentro la máquina «{host}»: ¿está bien escrita? {insisto}'
        opcion = '' if puerto == PUERTO else f' --puerto {puerto}'
        return f'No hay ningún servidor en {host}:{puerto}. Para arrancarlo, en otra terminal: ' \
               f'python server.py{opcion} — {insisto}'


def recibir_algo(conexion, plazo):
    """Espera a que llegue algo, `plazo` segundos a lo sumo (`None`: sin límite). `b''`: se ha cortado, o no llegó."""
    try:
        listos, _, _ = select.select([conexion], [], [], None if plazo is None else max(0, plazo))
        return conexion.recv(TAM_LECTURA) if listos else b''
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
    for flujo in filter(None, (sys.stdout, sys.stderr)):
        if not hasattr(flujo, 'reconfigure'):
            print('Esto se usa en una terminal, no en IDLE: python cliente.py')
            return 2
        flujo.reconfigure(errors='replace')
    for nombre in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGBREAK'):
        if hasattr(signal, nombre) and not (nombre == 'SIGHUP' and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN):
            signal.signal(getattr(signal, nombre), signal.default_int_handler)      # con nohup, SIGHUP se ignora
    pantalla = terminal.elegir(ajustes.max_linea_leida, ajustes.simple, ajustes.sin_color)
    try:
        codigo = charlar(ajustes, pantalla)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)    # ya se está yendo
        pantalla.decir('')      # detrás del ^C
        codigo = 0
    if codigo != 2:
        pantalla.decir('Hasta luego.')
    return codigo


def charlar(ajustes, pantalla):
    """Pregunta lo que falte y charla hasta el final. Devuelve el código de salida."""
    puerto, nick = ajustes.puerto, ajustes.nick
    if puerto is None:
        puerto = preguntar(pantalla, f'Puerto (de 0 a {PUERTO}; Enter = {PUERTO}):', comprobar_puerto)
    if puerto is not None and nick is None:
        nick = preguntar(pantalla, 'Nick:', comprobar_nick)
    if puerto is None or nick is None:
        return 0
    try:
        nick = comprobar_nick(nick.strip())
    except ValueError as motivo:
        pantalla.decir(f'Error: {motivo}')
        return 2
    charla = Charla(ajustes, puerto or PUERTO, nick, pantalla)
    try:
        charla.empezar()
        vigilar_terminal(pantalla)
        while not charla.fin.wait(0.5 if EN_WINDOWS else None):     # en Windows, esperar sin plazo no deja ver Ctrl+C
            pass
    except KeyboardInterrupt:
        charla.despedirse()
    finally:
        try:
            sin_enviar = charla.terminar()
        finally:
            pantalla.terminar()     # pase lo que pase, la terminal queda como estaba
    if sin_enviar:
        pantalla.decir(f'Líneas sin enviar: {sin_enviar}.')
    return charla.codigo


def vigilar_terminal(pantalla):
    """Que la pantalla sepa de los cambios de tamaño, de Ctrl+Z y de `fg`. En Windows no existen estas señales."""
    if EN_WINDOWS:
        return

    def suspender(*_):
        en_uso = pantalla.soltar()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)        # aquí se para, hasta SIGCONT
        signal.signal(signal.SIGTSTP, suspender)
        if en_uso:
            pantalla.tomar()

    signal.signal(signal.SIGWINCH, lambda *_: pantalla.redibujar())
    signal.signal(signal.SIGTSTP, suspender)


if __name__ == '__main__':
    sys.exit(main())
