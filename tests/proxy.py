"""Un proxy que corta: pasa bytes entre clientes y servidor por 127.0.0.1 y, al azar, congela y rompe conexiones.

Lo que le toca a la enésima conexión sale de la semilla y de ese número. Una red de verdad hace lo mismo, pero una vez
al mes y cuando nadie mira.
"""

import collections
import os
import random
import select
import socket
import struct
import threading
import time

MANERAS = ('fin', 'rst_cliente', 'rst_servidor', 'rst_ambos')   # al lado que no recibe RST se le cierra con FIN
MAX_LEIDO = 64 * 1024       # bytes leídos y aún no pasados, en cada sentido: con más, se deja de leer
PASO = 0.02                 # segundos de caudal que se pasan de una vez
ESPERA_A_MEDIAS = 0.2       # segundos que se aguarda una línea que partir; si no pasa ninguna, se corta sin más
NUNCA = float('inf')


class _Sentido:
    """Lo que va de `origen` a `destino`."""

    def __init__(self, nombre, origen, destino):
        self.nombre, self.origen, self.destino = nombre, origen, destino
        self.leido = bytearray()
        self.acabado = False        # `origen` no dirá más
        self.cerrado = False        # y `destino` ya lo sabe
        self.libre_desde = 0.0      # el caudal no deja pasar nada hasta entonces


class _Enlace:
    """Las dos conexiones de un cliente: la suya y la que el proxy hace al servidor en su nombre."""

    def __init__(self, cliente, servidor, azar):
        self.cliente, self.servidor, self.azar = cliente, servidor, azar
        self.sentidos = _Sentido('ida', cliente, servidor), _Sentido('vuelta', servidor, cliente)
        self.vence = NUNCA          # cuándo le pasa algo
        self.congelado = False
        self.a_medias = None        # el sentido en que se partirá la próxima línea, para cortar ahí

    def romper(self, manera):
        for lado, conexion in (('cliente', self.cliente), ('servidor', self.servidor)):
            if manera in (f'rst_{lado}', 'rst_ambos'):
                conexion.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                    struct.pack('hh' if os.name == 'nt' else 'ii', 1, 0))
            else:
                _terminar_con_fin(conexion)
            conexion.close()


def _terminar_con_fin(conexion):
    """Cerrar con algo por leer enviaría un RST: se lee antes."""
    try:
        conexion.shutdown(socket.SHUT_WR)
        while conexion.recv(MAX_LEIDO):
            pass
    except OSError:
        pass    # no queda nada por leer, o el otro lado cortó antes


class ProxyCortante:
    """`with ProxyCortante(direccion_del_servidor, semilla) as proxy`: los clientes se conectan a `proxy.direccion`.

    Cada conexión dura un tiempo al azar entre los dos de `vida` (`None`: no se corta nada) y entonces, con probabilidad
    `p_congelar`, se congela entre los dos segundos de `congelacion`, tras lo cual sigue o se corta, tanto da; si no, se
    corta de una de las `maneras`, con probabilidad `p_a_medias` en mitad de una línea. `caudal`: bytes por segundo que
    pasan en cada sentido de cada conexión; con un caudal pequeño, todo corte pierde algo por el camino.

    De una conexión que no se corta no se pierde un byte, tampoco si se congela. `cortes` (por manera), `a_medias` y
    `bytes` (por sentido), `conexiones` y `congelaciones` cuentan lo que ha hecho.
    """

    def __init__(self, servidor, semilla=0, *, vida=(0.1, 1.0), p_congelar=0.15, congelacion=(0.05, 0.5),
                 p_a_medias=0.5, maneras=MANERAS, caudal=NUNCA):
        self._servidor, self._semilla, self._vida, self._caudal = servidor, semilla, vida, caudal
        self._p_congelar, self._congelacion = p_congelar, congelacion
        self._p_a_medias, self._maneras = p_a_medias, maneras
        self.cortes, self.a_medias, self.bytes = collections.Counter(), collections.Counter(), collections.Counter()
        self.conexiones = self.congelaciones = 0
        self._enlaces = []                      # del hilo, como todo lo que cambia
        self._encargos = collections.deque()    # lo que otros hilos le piden: (función, suceso que pone al acabarla)
        self._abierto = True
        self._aviso, self._timbre = socket.socketpair()     # saca al hilo de su espera
        self._escucha = socket.create_server(('127.0.0.1', 0), backlog=100)
        self._escucha.setblocking(False)
        self.direccion = self._escucha.getsockname()
        self._hilo = threading.Thread(target=self._atender, name='proxy')
        self._hilo.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._encargar(lambda: setattr(self, '_abierto', False))
        self._hilo.join()

    def _encargar(self, funcion):
        """Que el hilo llame a `funcion`; vuelve cuando lo ha hecho."""
        hecho = threading.Event()
        self._encargos.append((funcion, hecho))
        self._timbre.send(b'!')
        while not hecho.wait(1):
            assert self._hilo.is_alive(), 'el proxy ha muerto'

    def dejar_de_cortar(self):
        """Desde ahora no corta ni congela nada, y lo congelado sigue."""
        self._encargar(lambda: setattr(self, '_vida', None))
        self.descongelar()

    def cortar(self, manera='fin'):
        """Corta ya todas las conexiones que hay."""
        self._encargar(lambda: [self._cortar(enlace, manera) for enlace in list(self._enlaces)])

    def congelar(self):
        """Congela las conexiones que hay hasta que se llame a `descongelar`. Las que lleguen no lo estarán."""
        self._encargar(lambda: [self._congelar(enlace, NUNCA) for enlace in self._enlaces])

    def descongelar(self):
        """Las conexiones congeladas siguen, con lo que guardaban."""
        self._encargar(lambda: [self._dar_vida(enlace) for enlace in self._enlaces])

    @property
    def abiertas(self):
        """Cuántas conexiones hay."""
        return len(self._enlaces)

    def resumen(self):
        """Lo que ha hecho, en una línea."""
        cortes = ', '.join(f'{manera} {veces}' for manera, veces in sorted(self.cortes.items()))
        return (f'{self.conexiones} conexiones, {self.cortes.total()} cortes ({cortes}; en mitad de una línea, '
                f'{self.a_medias.total()}), {self.congelaciones} congelaciones, {self.bytes.total()} bytes')

    # Lo que le pasa a una conexión

    def _dar_vida(self, enlace):
        enlace.congelado, enlace.a_medias = False, None
        enlace.vence = time.monotonic() + enlace.azar.uniform(*self._vida) if self._vida else NUNCA

    def _congelar(self, enlace, hasta):
        enlace.congelado, enlace.vence = True, hasta
        self.congelaciones += 1

    def _cortar(self, enlace, manera=None):
        manera = manera or enlace.azar.choice(self._maneras)
        self.cortes[manera] += 1
        self._enlaces.remove(enlace)
        enlace.romper(manera)

    def _vencer(self, enlace):
        azar = enlace.azar
        if enlace.congelado and azar.random() < 0.5:
            self._dar_vida(enlace)
        elif enlace.congelado or enlace.a_medias:
            self._cortar(enlace)
        elif azar.random() < self._p_congelar:
            self._congelar(enlace, time.monotonic() + azar.uniform(*self._congelacion))
        elif azar.random() < self._p_a_medias:
            enlace.a_medias, enlace.vence = azar.choice(enlace.sentidos), time.monotonic() + ESPERA_A_MEDIAS
        else:
            self._cortar(enlace)

    # El hilo

    def _atender(self):
        while self._abierto:
            listos, puede, _ = select.select(*self._preparar())
            for enlace in list(self._enlaces):
                for sentido in enlace.sentidos:
                    if sentido.origen in listos:
                        self._leer(sentido)
                    if sentido.destino in puede and sentido.leido and enlace in self._enlaces:
                        self._pasar(enlace, sentido)
            if self._escucha in listos:
                self._aceptar()
            if self._aviso in listos:
                self._aviso.recv(1)
                funcion, hecho = self._encargos.popleft()
                funcion()
                hecho.set()
        for enlace in self._enlaces:
            enlace.romper('fin')
        for conexion in (self._escucha, self._aviso, self._timbre):
            conexion.close()

    def _preparar(self):
        """Hace lo que ya toca y devuelve lo que ha de esperar `select`."""
        ahora, leer, escribir = time.monotonic(), [self._aviso, self._escucha], []
        for enlace in list(self._enlaces):
            if enlace.vence <= ahora:
                self._vencer(enlace)
            elif not enlace.congelado:
                self._pasar_finales(enlace)
        proxima = min([enlace.vence for enlace in self._enlaces], default=NUNCA)
        for sentido in [sentido for enlace in self._enlaces if not enlace.congelado for sentido in enlace.sentidos]:
            if not sentido.acabado and len(sentido.leido) < MAX_LEIDO:
                leer.append(sentido.origen)
            if sentido.leido and sentido.libre_desde <= ahora:
                escribir.append(sentido.destino)
            elif sentido.leido:
                proxima = min(proxima, sentido.libre_desde)
        return leer, escribir, [], None if proxima == NUNCA else max(0, proxima - ahora)

    def _aceptar(self):
        try:
            cliente = self._escucha.accept()[0]
        except OSError:
            return      # se fue antes
        self.conexiones += 1
        try:
            servidor = socket.create_connection(self._servidor)
        except OSError:
            cliente.close()     # sin servidor, se le corta
            return
        for conexion in (cliente, servidor):
            conexion.setblocking(False)
            conexion.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._enlaces.append(_Enlace(cliente, servidor, random.Random(f'{self._semilla}/{self.conexiones}')))
        self._dar_vida(self._enlaces[-1])

    @staticmethod
    def _leer(sentido):
        try:
            datos = sentido.origen.recv(MAX_LEIDO)
        except BlockingIOError:
            return
        except OSError:
            datos = b''     # un RST: lo que llegó antes se entrega igual
        sentido.leido += datos
        sentido.acabado = not datos

    def _pasar(self, enlace, sentido):
        trozo = sentido.leido[:max(2, int(min(MAX_LEIDO, self._caudal * PASO)))]
        puntos = _puntos_a_medias(trozo) if enlace.a_medias is sentido else []
        if puntos:
            trozo = trozo[:enlace.azar.choice(puntos)]
        try:
            pasados = sentido.destino.send(trozo)
        except BlockingIOError:
            return
        except OSError:
            sentido.leido.clear()       # el destino ya no está
            sentido.acabado = True
            return
        del sentido.leido[:pasados]
        self.bytes[sentido.nombre] += pasados
        sentido.libre_desde = time.monotonic() + pasados / self._caudal
        if puntos and pasados == len(trozo):
            self.a_medias[sentido.nombre] += 1
            self._cortar(enlace)

    def _pasar_finales(self, enlace):
        for sentido in enlace.sentidos:
            if sentido.acabado and not sentido.leido and not sentido.cerrado:
                sentido.cerrado = True
                try:
                    sentido.destino.shutdown(socket.SHUT_WR)
                except OSError:
                    pass    # ya no estaba
        if all(sentido.cerrado for sentido in enlace.sentidos):
            self._enlaces.remove(enlace)
            enlace.romper('fin')


def _puntos_a_medias(trozo):
    """Por dónde se puede partir `trozo` para que lo que pasa no acabe en un fin de línea."""
    return [punto for punto in range(1, len(trozo)) if trozo[punto - 1] != ord('\n')]
