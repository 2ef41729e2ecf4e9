"""Servidor de la sala: N hilos leen, uno escribe.

    cliente ──▶ main ──hilo──▶ manejar_cliente ──▶ [lista + cerrojo] ──▶ Repartidor ──▶ todos menos quien lo dijo
               acepta           lee (uno por cliente)     Sala            escribe (uno)

main acepta y entrega cada socket a un hilo `manejar_cliente`, el único que lee de él: convierte bytes en mensajes,
obedece los comandos y añade lo dicho a la lista de la sala. El resto del camino está en `sala.py` y `reparto.py`.
"""

import collections
import errno
import hmac
import os
import select
import selectors
import signal
import socket
import sys
import threading
import time

import protocolo
from config import TAM_LECTURA, TCP_IP, AjustesServidor, leer_opciones
from eco import manejar_eco
from protocolo import aviso, codificar
from reparto import SIN_ESPERA, Despertador, Repartidor, apagar
from sala import Adios, Cliente, Conexion, Sala

sala = Sala()       # la del programa; las pruebas hacen las suyas


# ── Los que leen ─────────────────────────────────────────────────────────────────────────────────────────────────

def manejar_cliente(conexion, sala):
    """El hilo de una conexión, y el único que lee de su socket. Acaba cuando el cliente se va, se corta, o vuelve por
    otra conexión; el servidor, al cerrar, la corta en sentido de lectura."""
    cliente, despedida = Cliente(conexion), None
    try:
        lector = Lector(cliente, sala.ajustes.espera_marco)
        cliente = presentar(cliente, conexion, sala, lector)
        while (lineas := lector.leer()) is not None:
            comprobar_relevo(cliente, conexion)
            conversar(cliente, conexion, sala, lineas)
    except Adios as adios:
        despedida = str(adios)
    except (OSError, EOFError, ValueError):
        pass    # un corte (RST, keepalive) es un final como otro; ValueError: `select` con el socket ya cerrado
    finally:
        sala.dejar(cliente, conexion, despedida)


class Lector:
    """Las líneas que llegan por la conexión de `cliente`, sea cual sea su marco, que apunta en él. Es de un solo hilo."""

    def __init__(self, cliente, espera_marco):
        self._cliente, self._socket = cliente, cliente.lectora.socket
        self._espera_marco = espera_marco       # segundos
        self._lecturas, self._limite_marco = [], None       # lo leído sin saber aún qué marco es
        self._marco = None
        self._leidas = collections.deque()      # líneas que han llegado y nadie ha pedido
        self._acabada = False                   # no llegará nada más
        self.hay_sesion = False

    def leer(self):
        """Las líneas que haya, o las de la próxima lectura que complete alguna. `None`: no hay más."""
        while not self._leidas:
            if self._acabada:
                return None
            self._recibir()
        lineas, self._leidas = self._leidas, collections.deque()
        return lineas

    def linea(self, limite):
        """La línea siguiente. `EOFError`: no hay más; `TimeoutError`: en el instante `limite` no ha llegado."""
        while not self._leidas:
            if self._acabada:
                raise EOFError
            plazo = limite if self._limite_marco is None else min(limite, self._limite_marco)
            if hay_datos(self._socket, max(0, plazo - time.monotonic())):
                self._recibir()
            elif plazo is limite:
                raise TimeoutError
            else:
                self._reconocer(silencio=True)
        return self._leidas.popleft()

    def devolver(self, linea):
        """Deja `linea` para la próxima lectura, delante de las demás."""
        self._leidas.appendleft(linea)

    def _recibir(self):
        if self._marco is not None and self._marco.rebosa:
            raise Adios(f'{self._marco.REGLA} Adiós.')
        datos = recibir(self._socket)
        if self._marco is not None:
            self._leidas.extend(self._marco.recibir(datos))
        else:
            if not self._lecturas:
                self._limite_marco = time.monotonic() + self._espera_marco
            self._lecturas.append(datos)
            self._reconocer(silencio=False)
        if not datos:
            self._acabar()

    def _reconocer(self, silencio):
        marco = protocolo.reconocer(b''.join(self._lecturas), silencio)
        if marco is not None:
            self._enmarcar(marco)

    def _enmarcar(self, marco):
        self._cliente.marco, self._marco, self._limite_marco = marco, marco(), None
        for datos in self._lecturas:
            self._leidas.extend(self._marco.recibir(datos))

    def _acabar(self):
        self._acabada = True
        if self._marco is None:
            self._enmarcar(protocolo.Lineas)
        if not self.hay_sesion:     # en una sesión, lo que un corte dejó a medias se volverá a enviar entero
            self._leidas.extend(self._marco.terminar())


def recibir(socket):
    """Espera hasta que haya algo que leer. `b''`: el otro lado terminó."""
    if not SIN_ESPERA:
        hay_datos(socket, None)
    return socket.recv(TAM_LECTURA)


def hay_datos(socket, segundos):
    """Espera a lo sumo `segundos` (`None`: sin límite) a que haya algo que leer, o el final."""
    with getattr(selectors, 'PollSelector', selectors.SelectSelector)() as selector:
        selector.register(socket, selectors.EVENT_READ)
        return bool(selector.select(segundos))


def presentar(cliente, conexion, sala, lector):
    """Lee hasta saber quién es y lo mete en la sala. Devuelve el cliente, que en una sesión retomada es el que ya había.

    Lo que se diga junto al nick queda en `lector`. `EOFError`: se fue sin presentarse.
    """
    ajustes = sala.ajustes
    limite = time.monotonic() + ajustes.plazo_nick
    for intento in range(ajustes.intentos_nick):
        if intento or not hay_datos(conexion.socket, ajustes.espera_pregunta):
            sala.preguntar(cliente, protocolo.NICK)
        try:
            linea = lector.linea(limite)
            if protocolo.pide_sesion(linea) and not cliente.ficha:
                lector.hay_sesion = True
                sesion = abrir_sesion(cliente, conexion, sala, linea)
                if sesion is not None:
                    return sesion
                linea = lector.linea(limite)
        except TimeoutError:
            raise Adios(f'Han pasado {ajustes.plazo_nick:g} segundos sin que digas tu nick. Adiós.') from None
        nick, texto = protocolo.presentacion(linea)
        if protocolo.es_salida(nick) or protocolo.es_salida(texto):
            raise Adios('Hasta luego.')
        if protocolo.arreglar_nick(nick):
            if ajustes.clave:
                pedir_clave(cliente, conexion, sala, lector)
            sala.entrar(cliente, nick)
            if texto:
                lector.devolver(texto)
            return cliente
    raise Adios(f'Sin nick no se puede entrar: {protocolo.REGLA_NICK}. Adiós.')


def pedir_clave(cliente, conexion, sala, lector):
    """Pide la clave hasta que la acierte; si no, `Adios`. Hasta entonces no sabe nada de la sala, ni su nick."""
    ajustes = sala.ajustes
    limite = time.monotonic() + ajustes.plazo_clave
    clave = protocolo.limpiar(ajustes.clave).strip().encode('utf-8', 'replace')
    for _ in range(ajustes.intentos_clave):
        sala.preguntar(cliente, protocolo.CLAVE)
        try:
            linea = lector.linea(limite).strip()
        except TimeoutError:
            raise Adios(f'Han pasado {ajustes.plazo_clave:g} segundos sin la clave. Adiós.') from None
        if hmac.compare_digest(linea.encode('utf-8', 'replace'), clave):    # tarda lo mismo acierte cuanto acierte
            return
        if protocolo.es_salida(linea):
            raise Adios('Hasta luego.')
        conexion.fin.wait(ajustes.pausa_clave)
        sala.decir(cliente, aviso('Clave incorrecta.'))
    raise Adios('Sin la clave no se puede entrar. Adiós.')


def abrir_sesion(cliente, conexion, sala, linea):
    """Atiende `#SESION`. Si la sesión ya existía, devuelve su cliente, que sigue por esta conexión; si no, `None`."""
    peticion = protocolo.leer_peticion(linea)
    if peticion is None:
        raise Adios('Esa sesión no se entiende: #SESION, 32 cifras hexadecimales y un número. Adiós.')
    cliente.ficha, visto = peticion
    reclamada = sala.reclamar(cliente.ficha, conexion)
    if reclamada is None:
        sala.decir_sin_numero(cliente, protocolo.respuesta(0, retomada=False))
        cliente.marco = protocolo.Numeradas
        return None
    sesion, anterior = reclamada
    anterior.fin.set()
    apagar(anterior.socket, socket.SHUT_RD)
    anterior.hilo.join()
    sala.retomar(sesion, conexion, visto)
    return sesion


def comprobar_relevo(cliente, conexion):
    """Si el cliente ya sigue por otra conexión, por esta no se acepta nada más: lo que falte lo enviará por la otra."""
    if cliente.lectora is not conexion:
        raise ConnectionAbortedError


def conversar(cliente, conexion, sala, lineas):
    """Atiende unas líneas de quien ya está dentro, en su orden y a su ritmo. Los mensajes seguidos van juntos."""
    mensajes = []
    for linea in lineas:
        clase, texto = protocolo.interpretar(linea, cliente.prefijos)
        if clase == protocolo.MENSAJE:
            mensajes.append(texto)
            continue
        publicar(cliente, conexion, sala, mensajes)
        mensajes = []
        if clase != protocolo.NADA:
            frenar(cliente, conexion, sala, 1)
        if clase == protocolo.PULSO:
            sala.acusar(cliente)
            continue
        cliente.recibidos += 1
        if clase == protocolo.SALIDA:
            raise Adios(f'Hasta luego, {cliente.nick}.')
        if clase == protocolo.LARGO:
            sala.decir(cliente, aviso(protocolo.aviso_largo(texto)))
        elif clase == protocolo.COMANDO:
            obedecer(cliente, sala, texto)
    publicar(cliente, conexion, sala, mensajes)


def publicar(cliente, conexion, sala, mensajes):
    while mensajes:
        cuantos = frenar(cliente, conexion, sala, len(mensajes))
        sala.publicar(cliente, mensajes[:cuantos])
        cliente.recibidos += cuantos
        if sala.ajustes.mostrar:
            sala.anotar('\n'.join([protocolo.prefijo(cliente.nick) + texto for texto in mensajes[:cuantos]]))
        mensajes = mensajes[cuantos:]


def frenar(cliente, conexion, sala, cuantas):
    """Espera a que el ritmo del cliente le deje decir algo. Devuelve cuántas de sus `cuantas` líneas puede decir ya."""
    if cliente.freno is None:
        cliente.freno = Freno(sala.ajustes)
    permitidas = 0
    while not permitidas:
        permitidas = cliente.freno.permitir(cuantas, conexion.fin)
        comprobar_relevo(cliente, conexion)
        if cliente.ficha and cliente.freno.toca_latir():
            sala.acusar(cliente)    # si no, callaría tanto que parecería muerta
    return permitidas


class Freno:
    """Cubo de fichas: `ritmo` por segundo sobre una `rafaga`. Quien se pasa espera en su propio hilo, deja de leer, y
    TCP frena al otro lado: no se descarta nada y nadie más lo nota. Es de un solo hilo."""

    def __init__(self, ajustes):
        self._ritmo, self._rafaga, self._latido = ajustes.ritmo, ajustes.rafaga, ajustes.latido
        self._fichas, self._hora = self._rafaga, time.monotonic()
        self._proximo_latido = self._hora + self._latido

    def permitir(self, cuantas, fin):
        """Cuántas de las `cuantas` líneas se pueden decir ya. Espera a que sea alguna, pero no más que `latido` segundos,
        ni un instante desde que se pone el suceso `fin`."""
        if not self._ritmo:
            return cuantas
        self._reponer()
        if self._fichas < 1:
            fin.wait(min((1 - self._fichas) / self._ritmo, self._latido))
            self._reponer()
        if self._fichas < 1 and not fin.is_set():
            return 0
        permitidas = max(1, min(cuantas, int(self._fichas)))
        self._fichas -= permitidas
        return permitidas

    def toca_latir(self):
        """Si se va frenado, y hace ya `latido` segundos de la última vez que tocó."""
        toca = self._fichas < 1 and self._hora >= self._proximo_latido
        if toca:
            self._proximo_latido = self._hora + self._latido
        return toca

    def _reponer(self):
        ahora = time.monotonic()
        self._fichas = min(self._rafaga, self._fichas + (ahora - self._hora) * self._ritmo)
        self._hora = ahora


# ── Comandos ─────────────────────────────────────────────────────────────────────────────────────────────────────

def obedecer(cliente, sala, texto):
    """Ejecuta la orden `texto`, que empieza por `/`."""
    nombre, _, argumento = texto.partition(' ')
    nombre = nombre.casefold()
    accion, (forma, _) = ACCIONES.get(nombre), protocolo.COMANDOS.get(nombre, ('', ''))
    if nombre in protocolo.SALIDAS:
        sala.decir(cliente, aviso(f'Para irte, escribe {nombre} y nada más.'))
    elif accion is None:
        sala.decir(cliente, aviso(f'Comando desconocido: {nombre}. /ayuda dice los que hay; '
                                  f'para decir algo que empieza por barra, escribe otra delante: /{nombre}'))
    elif forma and not argumento.strip():
        sala.decir(cliente, aviso(f'Se usa así: {nombre} {forma}'))
    else:
        accion(cliente, sala, argumento.strip())


def _ayuda(cliente, sala, _):
    for nombre, (forma, ayuda) in protocolo.COMANDOS.items():
        sala.decir(cliente, aviso(f'{nombre} {forma}'.strip() + f': {ayuda}'))


def _usuarios(cliente, sala, _):
    sala.decir(cliente, aviso(sala.describir_presentes()))


def _nick(cliente, sala, pedido):
    if not sala.cambiar_nick(cliente, pedido):
        sala.decir(cliente, aviso(f'Ese nick no vale: {protocolo.REGLA_NICK}.'))


def _privado(cliente, sala, argumento):
    nick, _, texto = argumento.partition(' ')
    destino = sala.buscar(nick)
    if protocolo.vacio(texto):
        sala.decir(cliente, aviso('Se usa así: /privado NICK TEXTO'))
    elif destino is None:
        sala.decir(cliente, aviso(f'No hay nadie que se llame {nick}. /usuarios dice quién está.'))
    else:
        sala.decir(destino, protocolo.privado(cliente.nick, texto.strip()))
        sala.decir(cliente, aviso(f'Enviado a {destino.nick} en privado.'))


# /salir no está: termina la conversación, y eso lo hace `conversar`.
ACCIONES = {'/ayuda': _ayuda, '/usuarios': _usuarios, '/nick': _nick, '/privado': _privado}


# ── El que acepta ────────────────────────────────────────────────────────────────────────────────────────────────

class Consola:
    """Lo que el servidor cuenta por su salida. Lo anota cualquier hilo; lo escribe solo main, cuando no hay que esperar:
    una terminal parada (Ctrl+S, texto seleccionado) o una tubería que nadie lee no detienen nada.

    Donde no se puede saber si habría que esperar (archivos, y Windows) se escribe sin más.
    """

    TROZO = getattr(select, 'PIPE_BUF', None)   # bytes que admite sin esperar una tubería que dice que admite algo

    def __init__(self, salida, max_apuntes):
        """`salida`: un archivo binario sin búfer, o `None` si el programa no tiene salida."""
        self._salida, self._max_apuntes = _sin_bloqueo(salida), max_apuntes
        self._apuntes = collections.deque()     # `append` y `popleft` son atómicas: no hace falta cerrojo
        self._omitidos = 0
        self._a_medias = b''
        self.al_anotar = lambda: None           # lo pone el servidor: saca a main de su espera

    def anotar(self, linea):
        """Deja una línea para cuando se pueda escribir. Si hay ya demasiadas, solo la cuenta."""
        if len(self._apuntes) < self._max_apuntes:
            self._apuntes.append(linea)
        else:
            self._omitidos += 1
        self.al_anotar()

    def escribir(self, plazo=0):
        """Escribe lo anotado; espera a la consola `plazo` segundos a lo sumo, en total. Devuelve si queda algo."""
        fin = time.monotonic() + plazo
        while self._preparar() and self._admite(max(0, fin - time.monotonic())):
            try:
                escritos = self._salida.write(self._a_medias[:self.TROZO])
                if escritos is None:
                    break
            except OSError:     # ya no hay consola: la charla sigue sin ella
                self._salida = None
                break
            self._a_medias = self._a_medias[escritos:]
        return bool(self._a_medias)

    def _preparar(self):
        if self._salida is None:
            self._apuntes.clear()
            self._a_medias, self._omitidos = b'', 0
        elif not self._a_medias and self._apuntes:
            self._a_medias = codificar(self._apuntes.popleft())
        elif not self._a_medias and self._omitidos:
            omitidos, self._omitidos = self._omitidos, 0
            self._a_medias = codificar(f'(y {omitidos} líneas más, que no ha habido manera de mostrar)')
        return self._a_medias

    def _admite(self, plazo):
        if self.TROZO is None:
            return True
        with selectors.PollSelector() as selector:
            selector.register(self._salida, selectors.EVENT_WRITE)
            return bool(selector.select(plazo))


def _sin_bloqueo(salida):
    """Una terminal dice que admite algo aunque no quepa una línea, y entonces escribir espera: se abre otra vez, sin
    espera. A la de siempre no se le puede quitar: la comparte quien lanzó el programa."""
    if not hasattr(os, 'O_NONBLOCK') or salida is None or not salida.isatty():
        return salida
    try:
        descriptor = os.open(os.ttyname(salida.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return salida
    return open(descriptor, 'wb', buffering=0)


class Servidor:
    """El hilo principal: acepta conexiones, da a cada una su hilo y escribe en la consola."""

    REPASO = 0.2        # segundos entre intentos con una consola parada
    RECHAZOS = 1000     # conexiones seguidas, antes de volver a lo demás

    def __init__(self, ajustes, sala, consola):
        self.sala, self.ajustes, self.consola = sala, ajustes, consola
        sala.ajustes, sala.anotar = ajustes, consola.anotar
        self._parar = False
        self.despertador = Despertador()
        consola.al_anotar = self.despertador.tocar
        familia, _, _, _, direccion = socket.getaddrinfo(
            ajustes.host, ajustes.puerto, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._escucha = socket.create_server(direccion, family=familia, backlog=4096)
        self._escucha.setblocking(False)
        self._reserva = os.open(os.devnull, os.O_RDONLY)    # para poder decir que no caben más
        self.direccion = self._escucha.getsockname()[:2]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._escucha, selectors.EVENT_READ, self._aceptar)
        self._selector.register(self.despertador.lectura, selectors.EVENT_READ, self.despertador.atender)
        self.repartidor = Repartidor(sala)

    def parar(self):
        """Pide el cierre, desde cualquier hilo o desde una señal."""
        self._parar = True
        self.despertador.tocar()

    def atender(self):
        """Acepta conexiones hasta que se llame a `parar`; luego lo cierra todo."""
        while not self._parar:
            self._atender_sucesos(None)
        self._cerrar()

    def _atender_sucesos(self, plazo):
        if self.consola.escribir():
            plazo = self.REPASO if plazo is None else min(plazo, self.REPASO)
        for clave, _ in self._selector.select(plazo):
            clave.data()

    def _aceptar(self):
        try:
            socket_nuevo, direccion = self._escucha.accept()
        except (BlockingIOError, ConnectionError):
            return      # se fue antes de que la aceptáramos
        except OSError as error:
            self.consola.anotar(f'No puedo aceptar más conexiones ({error.strerror}); lo intento de nuevo enseguida.')
            self._rechazar()
            self._descansar()
            return
        preparar_conexion(socket_nuevo, self.ajustes.keepalive)
        conexion = Conexion(socket_nuevo, direccion)
        # daemon: si alguno quedara atascado al cerrar, no debe impedir que el proceso termine.
        manejar = manejar_eco if self.ajustes.eco else manejar_cliente
        conexion.hilo = threading.Thread(target=manejar, args=(conexion, self.sala), daemon=True)
        try:
            self.sala.conectar(conexion)
            conexion.hilo.start()
        except Adios as motivo:
            self.sala.dejar(Cliente(conexion), conexion, str(motivo))
        except RuntimeError:
            self.sala.dejar(Cliente(conexion), conexion, 'El servidor no da para más hilos. Prueba dentro de un rato.')
            self.consola.anotar('No puedo crear más hilos; lo intento de nuevo enseguida.')
            self._descansar()

    def _rechazar(self):
        """Sin descriptores, con el de reserva: quien espera en la puerta sabe al menos por qué no entra."""
        os.close(self._reserva)
        for _ in range(self.RECHAZOS):
            try:
                rechazado, _ = self._escucha.accept()
            except OSError:
                break   # no queda nadie en la puerta
            with rechazado:
                decir_y_cerrar(rechazado, 'El servidor no admite más conexiones. Prueba dentro de un rato.')
        self._reserva = os.open(os.devnull, os.O_RDONLY)

    def _descansar(self):
        """Deja de aceptar un momento: sin recursos, insistir solo gasta procesador. Parar interrumpe el descanso."""
        self._selector.unregister(self._escucha)
        fin = time.monotonic() + self.ajustes.pausa_sin_recursos
        while not self._parar and (queda := fin - time.monotonic()) > 0:
            self._atender_sucesos(queda)
        self._selector.register(self._escucha, selectors.EVENT_READ, self._aceptar)

    def _cerrar(self):
        """Avisa a todos, espera a que reciban lo pendiente (`plazo_cierre` a lo sumo) y acaba con cada hilo y socket."""
        fin = time.monotonic() + self.ajustes.plazo_cierre
        self._escucha.close()
        os.close(self._reserva)
        self.sala.cerrar('El servidor se cierra. Hasta luego.')
        conexiones = self.sala.conexiones()
        for conexion in conexiones:
            conexion.fin.set()
            # el hilo de un eco puede estar también escribiendo
            apagar(conexion.socket, socket.SHUT_RDWR if self.ajustes.eco else socket.SHUT_RD)
        for conexion in conexiones:
            if conexion.hilo.is_alive():
                conexion.hilo.join(max(0, fin - time.monotonic()))
        self.repartidor.terminar(fin)
        self._selector.close()
        self.despertador.cerrar()
        self.consola.anotar('Fin.' if self.ajustes.eco else 'Fin: personas {}, mensajes {}, entregas {}.'.format(
            self.sala.personas, self.sala.mensajes, self.repartidor.entregas))
        self.consola.escribir(plazo=1)


def preparar_conexion(conexion, keepalive):
    """Sin espera de Nagle, y con la muerte del otro lado detectada en unos dos minutos (`keepalive`, tcp(7))."""
    silencio, intervalo, sondeos = keepalive
    conexion.setblocking(bool(SIN_ESPERA))      # en macOS heredaría del que escucha el no bloquear
    opciones = [(socket.IPPROTO_TCP, 'TCP_NODELAY', 1), (socket.SOL_SOCKET, 'SO_KEEPALIVE', 1),
                (socket.IPPROTO_TCP, 'TCP_KEEPIDLE', silencio), (socket.IPPROTO_TCP, 'TCP_KEEPALIVE', silencio),
                (socket.IPPROTO_TCP, 'TCP_KEEPINTVL', intervalo), (socket.IPPROTO_TCP, 'TCP_KEEPCNT', sondeos),
                # keepalive no sondea mientras hay datos sin confirmar, y en una sala activa siempre los hay
                (socket.IPPROTO_TCP, 'TCP_USER_TIMEOUT', (silencio + intervalo * sondeos) * 1000)]
    for nivel, nombre, valor in opciones:
        if hasattr(socket, nombre):     # cada sistema tiene las suyas
            try:
                conexion.setsockopt(nivel, getattr(socket, nombre), valor)
            except OSError:
                pass    # ya cerrada por el otro lado: lo verá su hilo


def decir_y_cerrar(rechazado, texto):
    """Lo último, y lo único, que se dice a quien no va a tener hilo ni sitio."""
    try:
        rechazado.setblocking(False)
        rechazado.send(codificar(aviso(texto)))
        rechazado.shutdown(socket.SHUT_WR)
        rechazado.recv(TAM_LECTURA)     # cerrar con algo por leer sería un RST
    except OSError:
        pass    # no había dicho nada, o ya se ha ido


# ── El programa ──────────────────────────────────────────────────────────────────────────────────────────────────

def subir_limite_de_descriptores():
    """Cada cliente es un descriptor, y el límite blando suele ser 1.024. En Windows no lo hay."""
    try:
        import resource
    except ImportError:
        return
    _, duro = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limite in (duro, 10_240):       # macOS no admite «infinito», pero sí este
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limite, duro))
            return
        except (ValueError, OSError):
            continue


def explicar_fallo(error, ajustes):
    """Por qué no se puede escuchar, y qué hacer."""
    host, puerto = ajustes.host, ajustes.puerto
    if isinstance(error, (socket.gaierror, UnicodeError)) or error.errno == errno.EADDRNOTAVAIL:
        return f'{host} no es una dirección de esta máquina. Sin --host, el servidor escucha en {TCP_IP}.'
    if error.errno == errno.EADDRINUSE:
        return (f'el puerto {puerto} está ocupado: quizá ya hay un servidor en marcha. '
                f'Usa otro: python server.py --puerto {puerto % 65535 + 1}')
    if error.errno == errno.EACCES:
        return f'el puerto {puerto} necesita permisos que no tienes. Usa uno mayor que 1023: python server.py --puerto 5000'
    return f'no puedo escuchar en {host}:{puerto}: {error.strerror}.'


def atender_senales(servidor):
    """Ctrl+C, SIGTERM y el cierre de la ventana paran el servidor con orden. Se instalan todas a mano: a lo que un guion
    lanza con `&`, SIGINT le llega ignorada."""
    def parar(*_):
        signal.set_wakeup_fd(-1)
        servidor.parar()

    # En Windows una señal no interrumpe a `select`; un byte en este descriptor, sí.
    signal.set_wakeup_fd(servidor.despertador.escritura.fileno(), warn_on_full_buffer=False)
    for nombre in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGBREAK'):
        if hasattr(signal, nombre) and not (nombre == 'SIGHUP' and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN):
            signal.signal(getattr(signal, nombre), parar)       # con nohup, SIGHUP se sigue ignorando


def main(argumentos=None):
    """`python server.py`. Devuelve el código de salida: 0, o 1 si no se puede escuchar."""
    ajustes = leer_opciones(AjustesServidor, 'server.py', 'Servidor de la sala.', argumentos)
    try:
        return servir(ajustes)
    except KeyboardInterrupt:
        return 0    # antes de empezar


def servir(ajustes):
    """Escucha y atiende hasta que una señal lo pare. Devuelve el código de salida."""
    subir_limite_de_descriptores()
    threading.stack_size(ajustes.pila_hilo)
    salida = getattr(sys.stdout, 'buffer', None)    # sin salida, o en IDLE, no lo hay
    consola = Consola(getattr(salida, 'raw', salida), ajustes.max_apuntes)      # con PYTHONUNBUFFERED no hay búfer
    try:
        servidor = Servidor(ajustes, sala, consola)
    except (OSError, UnicodeError) as error:
        print(f'Error: {explicar_fallo(error, ajustes)}', file=sys.stderr)
        return 1
    atender_senales(servidor)
    consola.anotar('Escuchando en {}:{} (Ctrl+C para terminar).'.format(*servidor.direccion)
                   + ' Solo eco: a cada uno le vuelve lo suyo.' * ajustes.eco)
    if ajustes.host not in (TCP_IP, 'localhost', '::1'):
        consola.anotar('Aviso: cualquiera que llegue a esta máquina por la red puede entrar y leer lo que se dice.')
    servidor.atender()
    return 0


if __name__ == '__main__':
    sys.exit(main())
