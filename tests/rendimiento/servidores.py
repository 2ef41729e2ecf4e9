"""Los servidores que se miden: cómo se arranca cada uno, cómo se le habla y cómo se para.

Cada uno es un proceso propio, en un puerto libre de 127.0.0.1. Se usa como contexto: al salir, también por un fallo o
por Ctrl+C, se le pide que termine y, si no hace caso, se le mata; siempre por su propio número de proceso.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

RAIZ = Path(__file__).resolve().parents[2]
NGIRCD = shutil.which('ngircd') or ('/usr/sbin/ngircd' if os.access('/usr/sbin/ngircd', os.X_OK) else None)
ANCHO_ENVIO = 60            # bytes de una línea de la sala como se envía, con su fin de línea
PLAZO_ARRANQUE = 15.0       # segundos hasta que escucha
PLAZO_PARADA = 5.0          # segundos entre pedirle que termine y matarlo

CONFIGURACION_NGIRCD = """\
[Global]
    Name = sala.prueba.local
    Info = medida de rendimiento
    Listen = 127.0.0.1
    Ports = {puerto}
    MotdPhrase = hola
    ServerUID = {uid}
    ServerGID = {gid}
[Limits]
    MaxConnections = 0
    MaxConnectionsIP = 0
    MaxJoins = 0
    MaxNickLength = 16
    MaxPenaltyTime = 0
    PingTimeout = 100000
[Options]
    DNS = no
    Ident = no
    PAM = no
    MorePrivacy = no
    SyslogFacility = local1
"""


class Idioma(NamedTuple):
    """Lo que un cliente y un servidor se dicen. Los nicks tienen un ancho fijo, y así también cada línea entregada."""

    presentacion: str       # lo primero que envía el cliente; con {nick}
    aceptado: str           # lo que se busca en la respuesta para saber que está dentro
    envio: str              # una línea enviada; con {texto}
    entrega: str            # la misma línea como la reciben los demás; con {nick} y {texto}
    ventana: int            # clientes que pueden estar entrando a la vez: no más que la cola de conexiones del servidor


SALA = Idioma('{nick}\n', '* Tu nick es {nick}\n', '{texto}\n', '[{nick}] {texto}\n', 1024)
IRC = Idioma('NICK {nick}\r\nUSER u 0 * :u\r\nJOIN #x\r\n', ' 366 {nick} #x ', 'PRIVMSG #x :{texto}\r\n',
             ':{nick}!~u@127.0.0.1 PRIVMSG #x :{texto}\r\n', 8)


def nick(indice):
    return f'c{indice:05d}'


def texto(numero):
    """El mensaje `numero`, el mismo ancho para todos. Ni empieza por / o # ni acaba en espacio."""
    return f'{numero:08d} '.ljust(ANCHO_ENVIO - 1, '.')


class NoDisponible(Exception):
    """No se puede arrancar ese servidor aquí; su texto dice por qué."""


class Servidor:
    """Un servidor en marcha: `pid`, `puerto` e `idioma`."""

    def __init__(self, nombre, clientes, techo=()):
        """`techo`: los bytes por cliente y el ancho de línea, solo para ese."""
        self.nombre, self.idioma = nombre, IRC if nombre == 'ngircd' else SALA
        self.puerto = 0
        self._proceso = None
        self._clientes, self._techo = clientes, techo

    @property
    def pid(self):
        return self._proceso.pid

    def __enter__(self):
        self._carpeta = tempfile.TemporaryDirectory(prefix='rendimiento-', ignore_cleanup_errors=True)
        # a un archivo y no a una tubería: nadie tiene que leerla para que el servidor no se pare
        self._consola = open(Path(self._carpeta.name, 'consola.txt'), 'w+b')
        try:
            # sesión propia: Ctrl+C llega solo a la medida, que lo para ella
            self._proceso = subprocess.Popen(self._orden(), cwd=RAIZ, stdin=subprocess.DEVNULL, stdout=self._consola,
                                             stderr=subprocess.STDOUT, start_new_session=True)
            self._esperar()
        except BaseException:
            self.parar()
            raise
        return self

    def __exit__(self, *_):
        self.parar()

    def _orden(self):
        if self.nombre == 'nosotros':
            return [sys.executable, 'server.py', '--puerto', '0', '--ritmo', '0', '--max-clientes', str(self._clientes),
                    '--max-por-ip', '0']
        if self.nombre == 'ngircd':
            return [self._ngircd(), '-n', '-f', self._configurar_ngircd()]
        argumentos = map(str, (self._clientes, *self._techo)) if self.nombre == 'techo' else ()
        return [sys.executable, '-m', 'tests.rendimiento.rivales', self.nombre, *argumentos]

    @staticmethod
    def _ngircd():
        if NGIRCD is None:
            raise NoDisponible('no está instalado')
        return NGIRCD

    def _configurar_ngircd(self):
        import pwd      # donde no lo hay, tampoco hay ngircd
        with socket.create_server(('127.0.0.1', 0)) as reserva:
            self.puerto = reserva.getsockname()[1]
        # como administrador dejaría sus permisos y ya no podría leer su configuración
        os.chmod(self._carpeta.name, 0o755)
        usuario = pwd.getpwnam('nobody') if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        ruta = Path(self._carpeta.name, 'ngircd.conf')
        ruta.write_text(CONFIGURACION_NGIRCD.format(puerto=self.puerto, uid=usuario.pw_uid, gid=usuario.pw_gid),
                        encoding='utf-8')
        return str(ruta)

    def _esperar(self):
        fin = time.monotonic() + PLAZO_ARRANQUE
        while not self._escucha():
            if self._proceso.poll() is not None or time.monotonic() > fin:
                raise NoDisponible(f'no arranca: {self.consola()[-300:].strip() or "sin explicación"}')
            time.sleep(0.01)

    def _escucha(self):
        if self.nombre != 'ngircd':
            primera, fin, _ = self.consola().partition('\n')
            if fin and primera.startswith('Escuchando en '):
                self.puerto = int(primera.split()[2].rpartition(':')[2])
            return bool(self.puerto)
        try:
            socket.create_connection(('127.0.0.1', self.puerto), 1).close()
        except ConnectionRefusedError:
            return False
        return True

    def consola(self):
        """Lo que el servidor ha escrito en su consola."""
        with open(self._consola.name, encoding='utf-8', errors='replace') as archivo:
            return archivo.read()

    def pedir_fin(self):
        """Le pide que termine, sin esperar a que lo haga."""
        if self._proceso is not None and self._proceso.poll() is None:
            self._proceso.send_signal(signal.SIGTERM)

    def parar(self):
        self.pedir_fin()
        if self._proceso is not None:
            try:
                self._proceso.wait(PLAZO_PARADA)
            except subprocess.TimeoutExpired:
                self._proceso.kill()
                self._proceso.wait()
        self._consola.close()
        self._carpeta.cleanup()
