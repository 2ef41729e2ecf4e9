"""Servidor de la sala: N hilos leen, uno escribe.

    cliente ──▶ main ──hilo──▶ manejar_cliente ──▶ [lista + cerrojo] ──▶ Repartidor ──▶ todos menos quien lo dijo
               acepta           lee (uno por cliente)     Sala            escribe (uno)

Este es el hilo principal: acepta, entrega cada socket a un hilo `manejar_cliente` y escribe en la consola. El resto del
camino, en orden: `conversacion.py`, `sala.py`, `tandas.py` y `reparto.py`.
"""

import collections
import errno
import os
import select
import selectors
import signal
import socket
import sys
import threading
import time

from config import TAM_LECTURA, TCP_IP, AjustesServidor, leer_opciones
from conversacion import manejar_cliente
from eco import manejar_eco
from protocolo import aviso, codificar
from red import SIN_ESPERA, Despertador, apagar
from reparto import Repartidor
from sala import Adios, Cliente, Conexion, Sala

sala = Sala()       # la del programa; las pruebas hacen las suyas


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
        self._reserva = reservar_descriptor()    # para poder decir que no caben más
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
        soltar_descriptor(self._reserva)
        for _ in range(self.RECHAZOS):
            try:
                rechazado, _ = self._escucha.accept()
            except OSError:
                break   # no queda nadie en la puerta
            with rechazado:
                decir_y_cerrar(rechazado, 'El servidor no admite más conexiones. Prueba dentro de un rato.')
        self._reserva = reservar_descriptor()

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
        soltar_descriptor(self._reserva)
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


def reservar_descriptor():
    """Uno cualquiera; `None` si no los hay."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None     # los que faltan son de toda la máquina, y otro programa se lo ha llevado


def soltar_descriptor(descriptor):
    if descriptor is not None:
        os.close(descriptor)


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
