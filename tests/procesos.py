"""Los dos programas como procesos de verdad, con tuberías o en una pseudoterminal.

Todo lo que se espera es un suceso (un texto que aparece, un proceso que acaba) y tiene un plazo generoso, que solo se
agota si la promesa no se cumple.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

RAIZ = Path(__file__).resolve().parent.parent
PLAZO = 20      # segundos

solo_posix = pytest.mark.skipif(os.name == 'nt', reason='usa pseudoterminales o señales de POSIX')


class Proceso:
    """Un programa en marcha. `salida` es todo lo que ha escrito (en una terminal, también los errores).

    Con `sin_lector`, al otro lado de su salida ya no hay nadie, como tras el final de `head` en una tubería.
    """

    def __init__(self, programa, *argumentos, terminal=False, sin_lector=False, entorno=None):
        # Sin PYTHONUNBUFFERED: un `flush` que falte se tiene que notar.
        entorno = {**{k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'}, **(entorno or {})}
        orden = [sys.executable, str(RAIZ / programa), *map(str, argumentos)]
        self._cambio = threading.Condition()    # guarda lo leído
        self._leido = {'salida': bytearray(), 'errores': bytearray()}
        if terminal:
            import fcntl
            import termios
            self.maestro, self.esclavo = os.openpty()
            self._proceso = subprocess.Popen(
                orden, stdin=self.esclavo, stdout=self.esclavo, stderr=self.esclavo, env=entorno,
                start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
            fuentes = {'salida': self.maestro}
            self._entrada = self.maestro
        else:
            self.maestro = None
            self._proceso = subprocess.Popen(orden, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=subprocess.PIPE, env=entorno)
            if sin_lector:
                self._proceso.stdout.close()
            fuentes = {'errores': self._proceso.stderr.fileno()}
            if not sin_lector:
                fuentes['salida'] = self._proceso.stdout.fileno()
            self._entrada = self._proceso.stdin.fileno()
        self.pid = self._proceso.pid
        self._lectores = [threading.Thread(target=self._leer, args=fuente, daemon=True) for fuente in fuentes.items()]
        for lector in self._lectores:
            lector.start()

    def _leer(self, nombre, descriptor):
        while True:
            try:
                datos = os.read(descriptor, 65536)
            except OSError:     # la pseudoterminal se cerró
                datos = b''
            if not datos:
                return
            with self._cambio:
                self._leido[nombre] += datos
                self._cambio.notify_all()

    @property
    def salida(self):
        return self._leido['salida'].decode('utf-8', 'replace').replace('\r\n', '\n')

    @property
    def errores(self):
        return self._leido['errores'].decode('utf-8', 'replace')

    @property
    def todo(self):
        return self.salida + self.errores

    def escribir(self, texto):
        pendiente = texto.encode()
        while pendiente:
            pendiente = pendiente[os.write(self._entrada, pendiente):]

    def esperar(self, texto, veces=1):
        """Espera a que `texto` haya salido `veces` veces."""
        with self._cambio:
            visto = self._cambio.wait_for(lambda: self.todo.count(texto) >= veces, PLAZO)
        assert visto, f'no apareció {texto!r} {veces} veces en:\n{self.todo[-3000:]}'

    def cerrar_entrada(self):
        self._proceso.stdin.close()

    def enviar_senal(self, senal):
        self._proceso.send_signal(senal)

    def acabar(self):
        """Espera a que acabe solo y devuelve su código de salida."""
        codigo = self._proceso.wait(PLAZO)
        if self.maestro is None:
            for lector in self._lectores:
                lector.join(PLAZO)
        return codigo

    def matar(self):
        if self._proceso.poll() is None:
            self._proceso.kill()
            self._proceso.wait(PLAZO)
        if self.maestro is not None and self.esclavo is not None:
            os.close(self.esclavo)
            self.esclavo = None
            for lector in self._lectores:
                lector.join(PLAZO)
            os.close(self.maestro)
        else:
            for tuberia in (self._proceso.stdin, self._proceso.stdout, self._proceso.stderr):
                if tuberia and not tuberia.closed:
                    try:
                        tuberia.close()
                    except BrokenPipeError:
                        pass


@pytest.fixture
def lanzar():
    """Función que lanza programas; al acabar la prueba se matan los que queden."""
    procesos = []

    def nuevo(*argumentos, **opciones):
        procesos.append(Proceso(*argumentos, **opciones))
        return procesos[-1]

    yield nuevo
    for proceso in reversed(procesos):
        proceso.matar()


@pytest.fixture
def servidor(lanzar):
    """Función que arranca `server.py` y devuelve `(proceso, puerto)`."""
    def nuevo(*argumentos, puerto=0):
        proceso = lanzar('server.py', '--puerto', puerto, '--ritmo', 0, *argumentos)
        proceso.esperar('Escuchando en ')
        return proceso, int(proceso.salida.split(':')[1].split()[0])
    return nuevo


def puerto_libre_de_clase():
    """Un puerto libre que la pregunta del cliente admite (de 1024 a 5000)."""
    while True:
        puerto = random.randint(1024, 4999)
        try:
            socket.create_server(('127.0.0.1', puerto)).close()
        except OSError:
            continue
        return puerto


class Vecino:
    """Alguien en la sala, al otro lado de un socket desnudo, que recuerda las líneas que recibe."""

    def __init__(self, puerto, nick):
        self._conexion = socket.create_connection(('127.0.0.1', puerto), PLAZO)
        self._lector = self._conexion.makefile('r', encoding='utf-8', newline='\n')
        self.lineas = []
        self.decir(nick)
        self.esperar(f'* Tu nick es {nick}')

    def decir(self, texto):
        self._conexion.sendall((texto + '\n').encode())

    def esperar(self, buscada):
        """Lee hasta la línea `buscada`."""
        while not self.lineas or self.lineas[-1] != buscada:
            linea = self._lector.readline()
            assert linea, f'se cerró sin decir {buscada!r}: {self.lineas[-20:]}'
            self.lineas.append(linea.rstrip('\n'))

    def cerrar(self):
        self._lector.close()
        self._conexion.close()


@pytest.fixture
def vecino():
    vecinos = []

    def nuevo(*argumentos):
        vecinos.append(Vecino(*argumentos))
        return vecinos[-1]

    yield nuevo
    for uno in vecinos:
        uno.cerrar()


def hasta(condicion):
    """Espera a que se cumpla una condición que no avisa de que cambia."""
    plazo = time.monotonic() + PLAZO
    while not condicion():
        assert time.monotonic() < plazo, 'la condición no llegó a cumplirse'
        time.sleep(0.01)
