"""La terminal de una persona: los mensajes pasan por encima y lo que está escribiendo no se mueve.

    teclado ──▶ Editor ──▶ líneas ──▶ enviar         recibir ──▶ líneas ──▶ Vestuario ──▶ pantalla

La línea de edición es siempre la última. Para enseñar algo se borra, se escribe encima, y se vuelve a dibujar con el
cursor donde estaba, todo en un solo envío a la terminal: lo dicho sube a la memoria de desplazamiento de la propia
terminal, como en cualquier programa.

`Editor` (en `editor.py`) y `Vestuario` no tocan la terminal. `Pantalla` sí, y solo desde el hilo `enviar`: lo que otros
hilos quieren enseñar espera en una cola. `Llana` ofrece lo mismo sin mover el cursor: tuberías, `TERM=dumb`, lectores de
pantalla.
"""

import collections
import datetime
import os
import re
import select
import socket
import sys
import threading
import zlib

import protocolo
from editor import Editor

# ── Aspecto ──────────────────────────────────────────────────────────────────────────────────────────────────────

# Colores de la paleta de 256 con contraste de al menos 3 a 1 sobre negro y sobre blanco (WCAG 2.1, 1.4.11).
PALETA = (27, 28, 30, 31, 62, 64, 67, 94, 97, 99, 100, 128, 130, 131, 133, 161, 163, 166)
MESES = ('enero', 'febrero', 'marzo', 'abril', 'mayo', 'junio', 'julio', 'agosto', 'septiembre', 'octubre',
         'noviembre', 'diciembre')
DIAS = ('lunes', 'martes', 'miércoles', 'jueves', 'viernes', 'sábado', 'domingo')
TENUE, NEGRITA, CURSIVA, INVERSO = '2', '1', '3', '7'


class Vestuario:
    """Da a cada línea su hora y sus colores. Con `color` falso, solo la hora."""

    def __init__(self, color, ahora=datetime.datetime.now):
        self._color, self._ahora = color, ahora
        self._dia = ahora().date()

    def vestir(self, linea, nick):
        """Las líneas de pantalla de una línea de la sala, para quien se llama `nick`."""
        autor, resto = protocolo.autor(linea)
        if autor is None:
            return self._con_hora(self._pintar(linea, TENUE))
        privado = resto.startswith('(privado) ')
        nombrado = nombra(resto, nick)
        quien = self._pintar(f'[{autor}]', f'38;5;{color_de(autor)}', NEGRITA)
        resto = self._pintar(resto, *[CURSIVA] * privado, *[NEGRITA] * nombrado)
        aviso = '\a' if nombrado or privado else ''
        return self._con_hora(f'{self._pintar(quien, INVERSO) if nombrado else quien} {resto}{aviso}')

    def vestir_propia(self, texto, nick):
        """Las de algo que escribe uno mismo: lo que dice, o un comando."""
        if texto.startswith('/') and not texto.startswith('//'):
            return self._con_hora(self._pintar(texto, TENUE))
        texto = texto[1:] if texto.startswith('//') else texto
        return self._con_hora(self._pintar(f'[{nick}]', f'38;5;{color_de(nick)}', NEGRITA, '4') + ' ' + texto)

    def vestir_programa(self, texto):
        """Las de algo que dice el programa."""
        return self._con_hora(self._pintar(f'— {texto}', CURSIVA))

    def _con_hora(self, texto):
        ahora = self._ahora()
        lineas = [self._pintar(ahora.strftime('%H:%M'), TENUE) + ' ' + texto]
        if ahora.date() != self._dia:
            self._dia = ahora.date()
            fecha = f'{DIAS[ahora.weekday()]}, {ahora.day} de {MESES[ahora.month - 1]} de {ahora.year}'
            lineas.insert(0, self._pintar(f'— {fecha} —', TENUE))
        return lineas

    def _pintar(self, texto, *estilos):
        return f'\x1b[{";".join(estilos)}m{texto}\x1b[0m' if self._color and estilos else texto


def color_de(nick):
    """El color de un nick: siempre el mismo, en todas las pantallas."""
    return PALETA[zlib.crc32(protocolo.clave_nick(nick).encode()) % len(PALETA)]


def nombra(texto, nick):
    """Si `texto` nombra a `nick` como palabra entera."""
    return bool(re.search(rf'(?<![\w.-]){re.escape(nick.casefold())}(?![\w-])', texto.casefold()))


# ── La entrada y la salida sin cursor ────────────────────────────────────────────────────────────────────────────

class Llana:
    """Líneas que entran y líneas que salen, sea un teclado, una tubería o un archivo.

    La entrada se lee sin pasar por `sys.stdin`: su búfer esconde a `select` líneas que ya han llegado, y un hilo parado
    en él no deja terminar al intérprete. Lo que dice la sala va a la salida estándar; lo que dice el programa, a la de
    errores.
    """

    def __init__(self, max_linea):
        self._lector = protocolo.Lineas(max_linea)
        self._lineas = []
        self.agotada = sys.stdin is None        # «python cliente.py <&-»
        self.hay_persona = not self.agotada and sys.stdin.isatty()
        if not self.agotada:
            self.fileno, self._recibir = _enchufar_entrada()
        self._descubrir = None      # lo que deshace `ocultar`

    def leer(self):
        """Lee una vez, cuando `select` dice que se puede, y devuelve las líneas que se completan."""
        try:
            datos = self._recibir()
        except OSError:
            datos = b''     # la terminal ha desaparecido
        return self._interpretar(datos)

    def _interpretar(self, datos):
        lineas = self._lector.recibir(datos) if datos else self._lector.terminar()
        if self._lector.rebosa:
            self.decir('La entrada trae una línea descomunal, que no es texto: no leo más.')
        self.agotada = not datos or self._lector.rebosa
        return lineas

    def preguntar(self, pregunta):
        """Pregunta y espera la respuesta. `None`: se acabó la entrada."""
        if pregunta:
            self._escribir('stderr', pregunta + (' ' if self.hay_persona else '\n'))
        while not self._lineas and not self.agotada:
            select.select([self], [], [])
            self._lineas += self.leer()
        return self._lineas.pop(0) if self._lineas else None

    def leidas(self):
        """Las líneas que llegaron junto a una respuesta y nadie ha pedido aún."""
        lineas, self._lineas = self._lineas, []
        return lineas

    def mostrar(self, linea, nick):
        """Lo que dice la sala. `BrokenPipeError`: ya no hay quien lo lea."""
        if not self._escribir('stdout', linea + '\n'):
            raise BrokenPipeError

    def decir(self, texto):
        """Lo que dice el programa."""
        self._escribir('stderr', texto + '\n')

    @staticmethod
    def _escribir(salida, texto):
        """Falso si al otro lado ya no hay nadie: entonces esa salida se da por cerrada."""
        flujo = getattr(sys, salida)
        if flujo is None:       # «2>&-»; con None, print escribiría en la otra
            return True
        try:
            print(texto, end='', file=flujo, flush=True)
        except OSError:
            setattr(sys, salida, open(os.devnull, 'w'))     # o el intérprete fallaría al vaciarla al final
            return False
        return True

    def ocultar(self, si):
        """Que no se vea lo que se teclea, o que vuelva a verse."""
        if si and self.hay_persona and self._descubrir is None:
            self._descubrir = sin_eco()
        elif not si and self._descubrir is not None:
            self._descubrir()
            self._descubrir = None
            self.decir('')      # el Enter tampoco se ha visto

    def terminar(self):
        """Deja la terminal como estaba."""
        self.ocultar(False)

    # Lo que solo tiene sentido con cursor

    def empezar(self, despertar, completar):
        """A partir de aquí la usa el hilo `enviar`, al que `despertar` saca de su espera."""

    def tomar(self):
        """Vuelve de Ctrl+Z."""

    def soltar(self):
        """Se va a Ctrl+Z."""

    def redibujar(self):
        """La ventana ha cambiado de tamaño."""

    def repetir(self, texto, nick):
        """Lo que acaba de decir uno mismo: aquí ya está en pantalla."""

    def devolver(self, texto):
        """Pone en la línea de edición algo que no se pudo enviar."""

    def refrescar(self, pregunta):
        """Enseña lo que espere en la cola y la línea de edición."""


def _enchufar_entrada():
    """Un `fileno` que se puede dar a `select` y una función que lee de él."""
    descriptor = sys.stdin.fileno()
    if os.name != 'nt':
        return lambda: descriptor, lambda: os.read(descriptor, 4096)
    # En Windows `select` solo admite sockets: un hilo copia la entrada a uno. daemon: está siempre parado leyendo, y
    # solo el final del programa lo saca de ahí.
    destino, origen = socket.socketpair()
    threading.Thread(target=_copiar_entrada, args=(sys.stdin.buffer.raw, destino), daemon=True).start()
    return origen.fileno, lambda: origen.recv(4096)


def _copiar_entrada(origen, destino):
    with destino:
        while datos := origen.read(4096):
            destino.sendall(datos)


# ── La pantalla de una persona ───────────────────────────────────────────────────────────────────────────────────

class Pantalla(Llana):
    """Una terminal con cursor. Tras `empezar`, todo lo que se ve lo escribe `refrescar`, en el hilo `enviar`."""

    MAX_COLA = 1000     # líneas: si la terminal no da abasto, `recibir` espera, y TCP frena al servidor

    def __init__(self, max_linea, color):
        super().__init__(max_linea)
        self._vestuario = Vestuario(color)
        self._editor = None
        self._apartado = None                   # el editor con lo que se escribía, mientras se teclea algo oculto
        self._cola = collections.deque()        # de cualquier hilo a `refrescar`: (cómo se viste, argumentos)
        self._vaciada = threading.Event()
        self._dibujado = None                   # lo que hay ahora en la línea de edición
        self._en_uso = False                    # si la terminal está en modo crudo y es nuestra
        self._restaurar = self._despertar = lambda: None

    def empezar(self, despertar, completar):
        self._despertar, self._editor = despertar, Editor(completar)
        self.tomar()

    def tomar(self):
        """Toma la terminal, al empezar o al volver de Ctrl+Z: modo crudo, y la línea de edición abajo del todo."""
        self._restaurar = modo_crudo()
        self._escribir_todo(f'\x1b[?2004h\x1b[{_tamano().lines};1H')
        self._dibujado, self._en_uso = None, True
        self._despertar()

    def soltar(self):
        """La deja como estaba, con el cursor en una línea nueva. Devuelve si la tenía."""
        en_uso = self._en_uso
        if en_uso:
            self._restaurar()       # lo primero: escribir puede tener que esperar, y otro Ctrl+C interrumpirlo
            self._escribir_todo('\r\x1b[J\x1b[?2004l')
            self._en_uso = False
        return en_uso

    def redibujar(self):
        """La ventana ha cambiado de tamaño."""
        self._dibujado = None
        self._despertar()

    def _interpretar(self, datos):
        if self._editor is None:
            return super()._interpretar(datos)
        lineas = list(self._editor.teclear(datos))
        self.agotada = not datos or None in lineas
        return [linea for linea in lineas if linea is not None]

    def mostrar(self, linea, nick):
        self._encolar(self._vestuario.vestir, linea, nick)
        self._vaciada.clear()
        if len(self._cola) > self.MAX_COLA and self._en_uso:
            self._vaciada.wait()

    def decir(self, texto):
        if self._en_uso:
            self._encolar(self._vestuario.vestir_programa, texto)
        else:
            super().decir(texto)

    def ocultar(self, si):
        if si and self._apartado is None:
            self._editor, self._apartado = Editor(), self._editor
        elif not si and self._apartado is not None:
            self._editor, self._apartado = self._apartado, None

    def repetir(self, texto, nick):
        self._encolar(self._vestuario.vestir_propia, texto, nick)

    def _encolar(self, vestir, *argumentos):
        self._cola.append((vestir, argumentos))
        self._despertar()

    def devolver(self, texto):
        if self._apartado is None and not self._editor.texto:       # si ya se está escribiendo otra cosa, queda en la historia
            self._editor.poner(texto)

    def refrescar(self, pregunta):
        if not self._en_uso:
            return
        lineas = self._lo_encolado()
        ancho = _tamano().columns
        fila, columna = (self._editor if self._apartado is None else Editor()).fila(pregunta, ancho)
        if lineas or (fila, columna, ancho) != self._dibujado:
            self._dibujado = fila, columna, ancho
            cursor = f'\r\x1b[{columna}C' if columna else '\r'
            self._escribir_todo('\r\x1b[J' + ''.join(linea + '\n' for linea in lineas) + fila + cursor)

    def _lo_encolado(self):
        lineas = []
        while self._cola:
            vestir, argumentos = self._cola.popleft()
            lineas += vestir(*argumentos)
        self._vaciada.set()
        return lineas

    def terminar(self):
        try:
            self.refrescar('')
        finally:
            self.soltar()
            self._vaciada.set()

    @staticmethod
    def _escribir_todo(texto):
        datos = texto.encode('utf-8', 'replace')
        salida = getattr(sys.stdout.buffer, 'raw', sys.stdout.buffer)   # en Windows, el que entiende UTF-8
        try:
            while datos:
                datos = datos[salida.write(datos):]
        except OSError:
            pass    # la ventana se ha cerrado: la lectura lo notará


def _tamano():
    try:
        tamano = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        tamano = 0, 0
    return tamano if all(tamano) else os.terminal_size((80, 24))    # algunas terminales dicen 0 por 0


def modo_crudo():
    """Pone la terminal a dar cada tecla en cuanto se pulsa, sin eco; Ctrl+C y Ctrl+Z siguen siendo señales.

    Devuelve la función que la deja como estaba.
    """
    if os.name == 'nt':
        entrada = _cambiar_consola(-10, quitar=ECO_DE_WINDOWS | LINEA_DE_WINDOWS, poner=TECLAS_VIRTUALES)
        salida = _cambiar_consola(-11, poner=SALIDA_VIRTUAL)
        return lambda: (entrada(), salida())

    def crudo(termios, modo):
        modo[0] &= ~termios.IXON        # Ctrl+S pararía la pantalla, y con ella la despedida
        modo[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        modo[6][termios.VMIN], modo[6][termios.VTIME] = 1, 0
    return _cambiar_terminal(crudo)


def sin_eco():
    """Que lo que se teclee no se vea. Devuelve la función que deja la terminal como estaba."""
    if os.name == 'nt':
        return _cambiar_consola(-10, quitar=ECO_DE_WINDOWS)

    def mudo(termios, modo):
        modo[3] &= ~termios.ECHO
    return _cambiar_terminal(mudo)


def _cambiar_terminal(cambiar):
    import termios
    descriptor = sys.stdin.fileno()
    antes, modo = termios.tcgetattr(descriptor), termios.tcgetattr(descriptor)
    cambiar(termios, modo)
    termios.tcsetattr(descriptor, termios.TCSANOW, modo)

    def restaurar():
        try:
            termios.tcsetattr(descriptor, termios.TCSANOW, antes)
        except termios.error:
            pass    # la ventana se ha cerrado
    return restaurar


# La consola de Windows entiende las mismas secuencias que las demás si se le pide (SetConsoleMode, ENABLE_*).
ECO_DE_WINDOWS, LINEA_DE_WINDOWS, TECLAS_VIRTUALES, SALIDA_VIRTUAL = 0x4, 0x2, 0x200, 0x4


def _cambiar_consola(canal, quitar=0, poner=0):
    import ctypes
    nucleo = ctypes.windll.kernel32
    asa, modo = nucleo.GetStdHandle(canal), ctypes.c_uint32()
    nucleo.GetConsoleMode(asa, ctypes.byref(modo))
    nucleo.SetConsoleMode(asa, modo.value & ~quitar | poner)
    return lambda: nucleo.SetConsoleMode(asa, modo)


def elegir(max_linea, simple, sin_color):
    """La que conviene: `Pantalla` si hay una terminal con cursor y no se pide otra cosa; si no, `Llana`.

    `NO_COLOR`: no-color.org. `TERM=dumb`: terminfo(5), una terminal sin órdenes de cursor.
    """
    con_cursor = all(flujo and flujo.isatty() for flujo in (sys.stdin, sys.stdout))
    if simple or not con_cursor or os.environ.get('TERM') == 'dumb':
        return Llana(max_linea)
    return Pantalla(max_linea, color=not (sin_color or os.environ.get('NO_COLOR')))
