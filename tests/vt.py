"""Una pantalla de terminal en pequeño: lo justo de una VT100 para saber qué ve una persona.

Filas, cursor, salto de línea diferido, colores (como texto), desplazamiento y lo que se ha ido por arriba.
"""

import codecs
import re
import unicodedata

_ORDEN = re.compile(r'\x1b(?:\[([?]?[0-9;]*)([@-~])|\][^\x07]*\x07)')


class Vt:
    def __init__(self, ancho, alto):
        self.ancho, self.alto = ancho, alto
        self.x = self.y = 0
        self.celdas = [self._fila() for _ in range(alto)]
        self.ido = []               # filas que han salido por arriba
        self.campanas = 0
        self.modos = set()
        self.otras = []             # órdenes que no debería usar nadie: títulos, modos raros
        self._estilo = ''
        self._salta = False         # el cursor está detrás de la última columna
        self._descodificador = codecs.getincrementaldecoder('utf-8')('replace')
        self._pendiente = ''

    def _fila(self):
        return [(' ', '')] * self.ancho

    def alimentar(self, datos):
        texto = self._pendiente + self._descodificador.decode(datos)
        self._pendiente = ''
        posicion = 0
        while posicion < len(texto):
            if texto[posicion] == '\x1b':
                orden = _ORDEN.match(texto, posicion)
                if orden is None:
                    self._pendiente = texto[posicion:]
                    return
                self._ordenar(orden)
                posicion = orden.end()
            else:
                self._caracter(texto[posicion])
                posicion += 1

    def _caracter(self, caracter):
        if caracter == '\r':
            self.x, self._salta = 0, False
        elif caracter == '\n':
            self._bajar()
        elif caracter == '\a':
            self.campanas += 1
        elif caracter == '\b':
            self.x = max(0, self.x - 1)
        elif unicodedata.category(caracter) in ('Mn', 'Me', 'Cf'):
            antes, estilo = self.celdas[self.y][max(0, self.x - 1)]
            self.celdas[self.y][max(0, self.x - 1)] = antes + caracter, estilo
        else:
            columnas = 2 if unicodedata.east_asian_width(caracter) in 'WF' else 1
            if self._salta or self.x + columnas > self.ancho:
                self.x, self._salta = 0, False
                self._bajar()
            self.celdas[self.y][self.x] = caracter, self._estilo
            if columnas == 2:
                self.celdas[self.y][self.x + 1] = '', self._estilo
            self.x += columnas
            if self.x == self.ancho:
                self.x, self._salta = self.ancho - 1, True

    def _bajar(self):
        self._salta = False
        if self.y < self.alto - 1:
            self.y += 1
        else:
            self.ido.append(self.celdas.pop(0))
            self.celdas.append(self._fila())

    def _ordenar(self, orden):
        parametros, final = orden.group(1), orden.group(2)
        if final is None or final not in 'ABCDGHJKmhl':
            self.otras.append(orden.group())
            return
        if final in 'hl':
            (self.modos.add if final == 'h' else self.modos.discard)(parametros)
            return
        if final == 'm':
            self._estilo = '' if parametros in ('', '0') else self._estilo + parametros + ';'
            return
        self._salta = False
        numeros = [int(numero or 0) for numero in parametros.split(';')]
        primero = max(1, numeros[0])
        if final == 'A':
            self.y = max(0, self.y - primero)
        elif final == 'B':
            self.y = min(self.alto - 1, self.y + primero)
        elif final == 'C':
            self.x = min(self.ancho - 1, self.x + primero)
        elif final == 'D':
            self.x = max(0, self.x - primero)
        elif final == 'G':
            self.x = min(self.ancho, primero) - 1
        elif final == 'H':
            self.y = min(self.alto, primero) - 1
            self.x = min(self.ancho, max(1, (numeros + [1])[1])) - 1
        elif final == 'K':
            self._borrar(self.y, self.x)
        elif final == 'J':
            self._borrar(self.y, self.x)
            for fila in range(self.y + 1, self.alto):
                self._borrar(fila, 0)

    def _borrar(self, fila, desde):
        self.celdas[fila][desde:] = [(' ', '')] * (self.ancho - desde)

    def redimensionar(self, ancho, alto):
        """Como xterm: no recoloca el texto; al perder filas, las de arriba se van y lo de abajo se queda."""
        self.ancho, viejas = ancho, self.celdas
        while len(viejas) > alto and self.y > 0:
            self.ido.append(viejas.pop(0))
            self.y -= 1
        viejas = viejas[:alto]
        self.celdas = [(fila + [(' ', '')] * ancho)[:ancho] for fila in viejas]
        self.alto = alto
        self.celdas += [self._fila() for _ in range(alto - len(viejas))]
        self.x, self._salta = min(self.x, ancho - 1), False

    # Lo que ve una persona

    @staticmethod
    def _texto(fila):
        return ''.join(caracter for caracter, _ in fila).rstrip()

    def filas(self):
        return [self._texto(fila) for fila in self.celdas]

    def todo(self):
        """Todo lo que ha pasado por la pantalla y sigue en ella o en su memoria, fila a fila."""
        return [self._texto(fila) for fila in self.ido] + self.filas()

    def ultima(self):
        return self._texto(self.celdas[-1])

    def contiene(self, texto):
        return any(texto in fila for fila in self.todo())

    def estilo_de(self, texto):
        """Los estilos con que se pintó la primera aparición de `texto`."""
        for fila in self.ido + self.celdas:
            posicion = ''.join(caracter or '\0' for caracter, _ in fila).find(texto)
            if posicion >= 0:
                return fila[posicion][1]
        return None
