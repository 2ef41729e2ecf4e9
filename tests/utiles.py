"""Lo que comparten las pruebas: una sala de verdad en un puerto libre y personas que hablan por ella.

Ninguna espera es «un rato»: se espera el suceso mismo, con `PLAZO` como red para que nada se quede colgado.
"""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import server
from config import AjustesServidor
from sala import Sala

RAIZ = Path(__file__).resolve().parent.parent
PLAZO = 20.0    # segundos; muy por encima de lo que tarda nada, también con los dos núcleos ocupados


def esperar_a(condicion, que='la condición'):
    """Espera a que `condicion()` sea cierta y devuelve su valor."""
    limite = time.monotonic() + PLAZO
    while not (valor := condicion()):
        assert time.monotonic() < limite, f'no llegó a cumplirse: {que}'
        time.sleep(0.002)
    return valor


def sockets_abiertos():
    """Cuántos sockets y selectores tiene este proceso; `None` donde no se puede saber."""
    carpeta = '/proc/self/fd'
    if not os.path.isdir(carpeta):
        return None
    total = 0
    for descriptor in os.listdir(carpeta):
        try:
            destino = os.readlink(f'{carpeta}/{descriptor}')
        except FileNotFoundError:
            continue    # el de la propia lectura de la carpeta
        total += destino.startswith(('socket:', 'anon_inode:[eventpoll]'))
    return total


class Persona:
    """Un cliente de pruebas: dice líneas y espera las que ha de recibir."""

    def __init__(self, direccion, buzon=None, origen=None):
        self.socket = socket.socket()
        self.socket.settimeout(PLAZO)
        if buzon is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buzon)
        if origen is not None:
            self.socket.bind((origen, 0))
        self.socket.connect(direccion)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.nick = None
        self._pendiente = b''
        self._terminado = False

    def enviar(self, datos):
        self.socket.sendall(datos)

    def decir(self, *lineas):
        self.enviar(''.join(linea + '\n' for linea in lineas).encode())

    def entrar(self, nick):
        """Dice su nick y espera a estar dentro. Devuelve las líneas de la bienvenida."""
        self.decir(nick)
        lineas = self.hasta(lambda linea: linea.startswith('* Hola, '))
        lineas[0] = lineas[0].removeprefix('Nick: ')    # si tardó en decirlo, se le preguntó
        self.nick = next(linea for linea in lineas if linea.startswith('* Tu nick es '))[len('* Tu nick es '):]
        return lineas

    def _leer(self):
        """Lee algo más. Falso si el servidor ya cerró."""
        if not self._terminado:
            datos = self.socket.recv(65536)
            self._terminado = not datos
            self._pendiente += datos
        return not self._terminado

    def linea(self):
        """La línea siguiente. Falla si el servidor cierra antes."""
        while b'\n' not in self._pendiente:
            assert self._leer(), f'el servidor cerró; quedaba {self._pendiente!r}'
        linea, _, self._pendiente = self._pendiente.partition(b'\n')
        return linea.decode()

    def hasta(self, que):
        """Las líneas que llegan hasta una igual a `que`, o que lo cumpla, incluida."""
        cumple = que if callable(que) else que.__eq__
        lineas = [self.linea()]
        while not cumple(lineas[-1]):
            lineas.append(self.linea())
        return lineas

    def mensajes(self, cuantos):
        """Las líneas que llegan hasta completar `cuantos` mensajes: los avisos no están."""
        lineas = []
        while len(lineas) < cuantos:
            linea = self.linea()
            if linea.startswith('['):
                lineas.append(linea)
        return lineas

    def crudo(self, cuantos):
        """Los `cuantos` bytes siguientes."""
        while len(self._pendiente) < cuantos:
            assert self._leer(), f'el servidor cerró; quedaba {self._pendiente!r}'
        datos, self._pendiente = self._pendiente[:cuantos], self._pendiente[cuantos:]
        return datos

    def hasta_el_final(self):
        """Las líneas que llegan hasta que el servidor cierra. La última puede no tener fin de línea."""
        while self._leer():
            pass
        lineas = self._pendiente.decode().split('\n')
        return lineas[:-1] if lineas[-1] == '' else lineas

    def terminar_de_hablar(self):
        self.socket.shutdown(socket.SHUT_WR)

    def romper(self):
        """Corta con un RST, como un cable o un programa que muere."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                               struct.pack('hh' if os.name == 'nt' else 'ii', 1, 0))
        self.socket.close()

    def cerrar(self):
        self.socket.close()


class ConsolaDePruebas:
    """Recuerda lo que el servidor escribiría en la suya."""

    def __init__(self):
        self.apuntes = []
        self.anotar = self.apuntes.append

    def escribir(self, plazo=0):
        return False


class SalaDePruebas:
    """Un servidor en marcha y quienes se han conectado a él."""

    def __init__(self, programa):
        self.servidor, self.sala, self.repartidor = programa, programa.sala, programa.repartidor
        self.direccion = programa.direccion
        self.apuntes = self.servidor.consola.apuntes
        self.personas = []
        self.hilo = threading.Thread(target=programa.atender, name='servidor de pruebas', daemon=True)
        self._parado = False

    def parar(self):
        """Pide el cierre, una sola vez."""
        if not self._parado:
            self._parado = True
            self.servidor.parar()

    def conectar(self, **opciones):
        persona = Persona(self.direccion, **opciones)
        self.personas.append(persona)
        return persona

    def persona(self, nick, **opciones):
        """Alguien que ya ha entrado."""
        persona = self.conectar(**opciones)
        persona.entrar(nick)
        return persona

    def grupo(self, *nicks):
        """Varios que ya han entrado y han visto entrar a los demás: lo siguiente que reciban será nuevo."""
        personas = [self.persona(nick) for nick in nicks]
        for posicion, persona in enumerate(personas):
            for posterior in personas[posicion + 1:]:
                assert persona.linea() == f'* {posterior.nick} entró.'
        return personas

    def cliente(self, nick):
        """El `Cliente` que el servidor tiene para ese nick."""
        return esperar_a(lambda: self.sala.buscar(nick), f'que entre {nick}')


@contextlib.contextmanager
def servidor(**ajustes):
    """Un servidor en marcha en un puerto libre. Al salir lo cierra y comprueba que no deja hilos ni sockets."""
    ajustes = {'puerto': 0, 'espera_pregunta': PLAZO, **ajustes}     # a quien es un programa no se le pregunta nada
    hilos, sockets = set(threading.enumerate()), sockets_abiertos()
    consola = ConsolaDePruebas()
    sala_de_pruebas = SalaDePruebas(server.Servidor(AjustesServidor(**ajustes), Sala(), consola))
    try:
        sala_de_pruebas.hilo.start()
        try:
            yield sala_de_pruebas
        finally:
            sala_de_pruebas.parar()
            sala_de_pruebas.hilo.join(PLAZO)
    finally:
        for persona in sala_de_pruebas.personas:
            persona.cerrar()
        assert not sala_de_pruebas.hilo.is_alive(), 'el servidor no terminó'
        esperar_a(lambda: set(threading.enumerate()) <= hilos, 'que no quede ningún hilo')
        assert sockets is None or sockets_abiertos() <= sockets, 'quedan sockets abiertos'


class Proceso:
    """`server.py` como lo lanza una persona o un guion, con lo que escribe en una tubería."""

    def __init__(self, *argumentos, **opciones):
        variables = {nombre: valor for nombre, valor in os.environ.items()
                     if nombre not in ('PYTHONUNBUFFERED', 'PYTHONPATH')}
        variables['PYTHONIOENCODING'] = 'utf-8'
        self.proceso = subprocess.Popen(
            [sys.executable, str(RAIZ / 'server.py'), *argumentos], env=variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding='utf-8', **opciones)
        self.lineas, self.errores = [], []
        self._lectores = [threading.Thread(target=self._leer, args=par, daemon=True) for par in
                          ((self.proceso.stdout, self.lineas), (self.proceso.stderr, self.errores))]
        for lector in self._lectores:
            lector.start()
        self._vistas = 0

    @staticmethod
    def _leer(tuberia, lineas):
        with tuberia:
            for linea in tuberia:
                lineas.append(linea.rstrip('\n'))

    def hasta(self, cumple):
        """Espera una línea de su salida que cumpla y la devuelve. Las anteriores no se vuelven a mirar."""
        def siguiente():
            while self._vistas < len(self.lineas):
                self._vistas += 1
                if cumple(self.lineas[self._vistas - 1]):
                    return self.lineas[self._vistas - 1]
            assert self.proceso.poll() is None or self._lectores[0].is_alive() or self._vistas < len(self.lineas), \
                f'terminó sin decirlo: {self.lineas} {self.errores}'
            return None
        return esperar_a(siguiente, f'que el servidor lo dijera; dijo {self.lineas} {self.errores}')

    def direccion(self):
        linea = self.hasta(lambda linea: linea.startswith('Escuchando en '))
        host, _, puerto = linea.split()[2].rpartition(':')
        return ('127.0.0.1' if host == '0.0.0.0' else host), int(puerto)

    def senal(self, senal):
        self.proceso.send_signal(senal)

    def final(self):
        """Espera a que termine. Devuelve su código y las líneas de su salida y de sus errores."""
        codigo = self.proceso.wait(PLAZO)
        for lector in self._lectores:
            lector.join(PLAZO)
        return codigo, self.lineas, self.errores

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.proceso.poll() is None:
            self.proceso.kill()
        self.final()
