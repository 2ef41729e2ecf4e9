"""Sesiones: lo que se dicen los programas, y ninguna persona ve, para que un corte no pierda ni repita nada.

    cliente → servidor    #SESION <ficha> <visto>                   al conectar: quién soy y hasta qué línea recibí
    servidor → cliente    #SESION <recibidos> nueva|retomada        cuántas líneas tuyas tengo; desde que se entra, con número
    cliente → servidor    #VIVO                                     ¿sigues ahí? ¿cuántas has aceptado?
    servidor → cliente    <n> #VIVO <recibidos>
    servidor → cliente    #NICK, #CLAVE                             tu línea siguiente ha de ser eso

Cada lado sabe así hasta dónde llegó el otro: el servidor reenvía lo posterior a `visto`; el cliente, lo posterior a
`recibidos`, que guarda en su `Bandeja`. Sin E/S, como `protocolo.py`.
"""

import collections
import itertools
import re

from protocolo import NICK, VIVO, codificar

_PETICION = re.compile(r'#SESION ([0-9a-f]{32}) ([0-9]{1,18})')
_RESPUESTA = re.compile(rf'(?:{NICK}: )?#SESION ([0-9]{{1,18}}) (nueva|retomada)')
_ACUSE = re.compile(rf'{VIVO} ([0-9]{{1,18}})')


def pide_sesion(linea):
    """Si la primera línea de un cliente es de las que abren una sesión, bien escrita o no."""
    return linea.partition(' ')[0] == '#SESION'


def leer_peticion(linea):
    """`(ficha, visto)` de una petición de sesión; `None` si está mal escrita."""
    partes = _PETICION.fullmatch(linea)
    return (partes[1], int(partes[2])) if partes else None


def peticion(ficha, visto):
    """La línea con que un cliente abre una sesión o la retoma tras la línea número `visto`."""
    return f'#SESION {ficha} {visto}'


def respuesta(recibidos, retomada):
    """La línea que contesta a una petición: cuántas líneas de esa sesión se han aceptado."""
    return f'#SESION {recibidos} {"retomada" if retomada else "nueva"}'


def leer_respuesta(linea):
    """`(recibidos, retomada)`; `None` si `linea` no es una respuesta. A quien tardó en hablar le precede una pregunta."""
    partes = _RESPUESTA.fullmatch(linea)
    return (int(partes[1]), partes[2] == 'retomada') if partes else None


def acuse(recibidos):
    """La línea que dice cuántas líneas de una sesión se han aceptado."""
    return f'{VIVO} {recibidos}'


def leer_acuse(linea):
    """Cuántas líneas dice `linea` que se han aceptado; `None` si no es un acuse."""
    partes = _ACUSE.fullmatch(linea)
    return int(partes[1]) if partes else None


class Bandeja:
    """Las líneas escritas que el servidor aún no ha aceptado, y cuáles de ellas han salido ya. Es de un solo hilo."""

    def __init__(self, cada_acuse):
        self._cada_acuse = cada_acuse           # líneas tras las que se pregunta cuántas se han aceptado
        self._lineas = collections.deque()
        self._aceptadas = 0                     # cuántas hubo antes que estas en la sesión
        self._salieron = 0                      # cuántas de estas han salido por la conexión que hay, o que hubo
        self._sin_preguntar = 0                 # cuántas, desde que se preguntó
        self._en_curso = b''                    # lo que falta por salir de las últimas

    def __len__(self):
        return len(self._lineas)

    def sin_salir(self):
        """Cuántas no han salido."""
        return len(self._lineas) - self._salieron

    def anadir(self, linea):
        self._lineas.append(linea)

    def sacar(self):
        """Quita la primera y la devuelve: no era para la sala."""
        return self._lineas.popleft()

    def recortar(self, maximo):
        """Olvida las primeras si hay más de `maximo`, y devuelve cuántas eran. Nunca las que ya salieron: puede que el
        servidor las haya contado."""
        sobran = max(0, len(self._lineas) - maximo)
        if sobran:
            lineas = list(self._lineas)
            self._lineas = collections.deque(lineas[:self._salieron] + lineas[self._salieron + sobran:])
        return sobran

    def empezar(self, recibidos, retomada):
        """Se ha entrado por una conexión nueva. En una sesión retomada sale lo no aceptado; en otra, todo."""
        if retomada:
            self.aceptar(recibidos)
        self._aceptadas = recibidos
        self._salieron, self._sin_preguntar, self._en_curso = 0, 0, b''

    def aceptar(self, recibidos):
        """El servidor ha aceptado `recibidos` líneas desde el principio de la sesión."""
        nuevas = min(max(0, recibidos - self._aceptadas), len(self._lineas))
        for _ in range(nuevas):
            self._lineas.popleft()
        self._aceptadas += nuevas
        self._salieron = max(0, self._salieron - nuevas)

    def preguntar(self):
        """Que lo siguiente en salir, si no hay otra cosa, sea `#VIVO`."""
        self._en_curso = self._en_curso or codificar(VIVO)

    def hay_que_enviar(self):
        return bool(self._en_curso) or self._salieron < len(self._lineas)

    def siguiente(self):
        """Los bytes que toca enviar."""
        if not self._en_curso:
            lineas = list(itertools.islice(self._lineas, self._salieron, self._salieron + self._cada_acuse))
            self._salieron += len(lineas)
            self._sin_preguntar += len(lineas)
            if self._sin_preguntar >= self._cada_acuse:
                self._sin_preguntar = 0
                lineas.append(VIVO)
            self._en_curso = codificar('\n'.join(lineas))
        return self._en_curso

    def enviados(self, bytes_enviados):
        """De `siguiente`, han salido tantos."""
        self._en_curso = self._en_curso[bytes_enviados:]
