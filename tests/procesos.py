"""Los dos programas como procesos de verdad, con tuberías o en una pseudoterminal.

Todo lo que se espera es un suceso (un texto que aparece, un proceso que acaba) y tiene un plazo generoso, que solo se
agota si la promesa no se cumple.
"""

import contextlib
import os
import random
import select
import shlex
import socket
import struct
import subprocess
import sys
import threading

from tests.utiles import PLAZO, RAIZ, Persona
from tests.vt import Vt

class Proceso:
    """Un programa en marcha. `salida` es todo lo que ha escrito (en una terminal, también los errores).

    Con `sin_lector`, al otro lado de su salida ya no hay nadie, como tras el final de `head` en una tubería.
    """

    def __init__(self, programa, *argumentos, terminal=False, sin_lector=False, entorno=None, ancho=80, alto=24,
                 con_trabajos=False):
        # Sin PYTHONUNBUFFERED: un `flush` que falte se tiene que notar.
        heredado = {nombre: valor for nombre, valor in os.environ.items()
                    if nombre not in ('PYTHONUNBUFFERED', 'NO_COLOR', 'TERM')}
        entorno = {**heredado, **(entorno or {})}
        orden = [sys.executable, str(RAIZ / programa), *map(str, argumentos)]
        if con_trabajos:        # un intérprete de órdenes con control de trabajos, para Ctrl+Z
            orden = ['sh', '-m', '-c', shlex.join(orden) + '; stty -a; read tecla; fg']
        self._cambio = threading.Condition()    # guarda lo leído
        self._basta, self._bastar = socket.socketpair()     # para a los lectores
        self._leido = {'salida': bytearray(), 'errores': bytearray()}
        if terminal:
            import fcntl
            import termios
            self.maestro, self.esclavo = os.openpty()
            self.modo_inicial = termios.tcgetattr(self.esclavo)     # antes de que el programa lo cambie
            self.pantalla = Vt(ancho, alto)
            self.redimensionar(ancho, alto)
            entorno = {'TERM': 'xterm-256color', **entorno}
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
            if self._basta in select.select([descriptor, self._basta], [], [])[0]:
                return
            try:
                datos = os.read(descriptor, 65536)
            except OSError:     # la pseudoterminal se cerró
                datos = b''
            if not datos:
                return
            with self._cambio:
                self._leido[nombre] += datos
                if self.maestro is not None:
                    self.pantalla.alimentar(datos)
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

    def ver(self, condicion):
        """Espera a que `condicion(pantalla)` sea cierta."""
        with self._cambio:
            visto = self._cambio.wait_for(lambda: condicion(self.pantalla), PLAZO)
        assert visto, 'en pantalla no se llegó a ver lo esperado, sino:\n' + '\n'.join(self.pantalla.filas())

    def redimensionar(self, ancho, alto):
        import fcntl
        import termios
        with self._cambio:
            self.pantalla.redimensionar(ancho, alto)
        fcntl.ioctl(self.maestro, termios.TIOCSWINSZ, struct.pack('HHHH', alto, ancho, 0, 0))

    def cerrar_ventana(self):
        """Como al cerrar la ventana de la terminal: SIGHUP, y ya no hay dónde leer ni escribir."""
        self._parar_lectores()
        os.close(self.esclavo)
        os.close(self.maestro)
        self.esclavo = None

    def _parar_lectores(self):
        self._bastar.send(b'!')
        for lector in self._lectores:
            lector.join(PLAZO)

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
        """Acaba con él, si aún vive, y cierra todo lo que se abrió para hablar con él."""
        if self._proceso.poll() is None:
            self._proceso.kill()
            self._proceso.wait(PLAZO)
        self._parar_lectores()
        if self.maestro is not None and self.esclavo is not None:
            os.close(self.esclavo)
            os.close(self.maestro)
        for tuberia in (self._proceso.stdin, self._proceso.stdout, self._proceso.stderr):
            if tuberia:
                with contextlib.suppress(BrokenPipeError):
                    tuberia.close()
        self._basta.close()
        self._bastar.close()


def puerto_libre_de_clase():
    """Un puerto libre que la pregunta del cliente admite (de 1024 a 5000)."""
    while True:
        puerto = random.randint(1024, 4999)
        try:
            socket.create_server(('127.0.0.1', puerto)).close()
        except OSError:
            continue
        return puerto


class Vecino(Persona):
    """Alguien en la sala, al otro lado de un socket desnudo, que recuerda las líneas que recibe."""

    def __init__(self, puerto, nick):
        super().__init__(('127.0.0.1', puerto))
        self.lineas = self.entrar(nick)

    def esperar(self, buscada):
        """Lee hasta la línea `buscada`."""
        self.lineas += self.hasta(buscada)
