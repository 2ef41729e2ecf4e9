"""La línea que una persona está escribiendo: teclas → texto → lo que de él cabe en una fila. Sin terminal.

No se usa `readline`: quien lo espera no puede a la vez atender a la red ni cambiar la pregunta, otro hilo no puede
sacarlo de ahí, y su variante libedit no desplaza líneas largas en horizontal.
"""

import codecs
import re
import unicodedata

import protocolo


def anchura(texto):
    """Columnas que ocupa `texto` en una terminal: 2 por carácter ancho, 0 por marca o unión (UAX #11)."""
    return len(texto) if texto.isascii() else sum(map(_columnas, texto))


def _columnas(caracter):
    if unicodedata.category(caracter) in ('Mn', 'Me', 'Cf'):
        return 0
    return 2 if unicodedata.east_asian_width(caracter) in 'WF' else 1


class Editor:
    """La línea que se está escribiendo.

    `completar(comienzo)` recibe lo que hay antes del cursor y devuelve las palabras que podrían ponerse en lugar de la
    última.
    """

    MAX_HISTORIA = 500      # líneas
    MAX_TEXTO = 2000        # caracteres: diez veces lo que se puede enviar; dibujar más se haría lento

    def __init__(self, completar=lambda comienzo: []):
        self.texto, self.cursor = '', 0
        self._completar = completar
        self._base = 0                  # dónde empieza la palabra que Tab completa
        self._opciones = []             # las de Tab, en rueda: la primera es la que toca
        self._historia, self._puesto, self._borrador = [], 0, ''
        self._descodificador = codecs.getincrementaldecoder('utf-8')('replace')
        self._secuencia = ''            # secuencia de escape a medias
        self._pegando = False
        self._cortado = ''
        self._controles = {
            '\x01': self.al_principio, '\x05': self.al_final, '\x02': self.izquierda, '\x06': self.derecha,
            '\x7f': self.borrar_antes, '\x08': self.borrar_antes, '\x0b': self.cortar_final,
            '\x15': self.cortar_principio, '\x17': self.cortar_palabra, '\x19': self.poner_cortado,
            '\x10': self.anterior, '\x0e': self.siguiente, '\t': self.completar,
        }
        self._secuencias = {        # lo que sigue a ESC
            '[A': self.anterior, '[B': self.siguiente, '[C': self.derecha, '[D': self.izquierda,
            'OA': self.anterior, 'OB': self.siguiente, 'OC': self.derecha, 'OD': self.izquierda,
            '[H': self.al_principio, '[F': self.al_final, '[1~': self.al_principio, '[4~': self.al_final,
            'OH': self.al_principio, 'OF': self.al_final, '[7~': self.al_principio, '[8~': self.al_final,
            '[3~': self.borrar, 'f': self.palabra_derecha, 'b': self.palabra_izquierda,
            '[1;5C': self.palabra_derecha, '[1;5D': self.palabra_izquierda,
            '[200~': self._empezar_pegado, '[201~': self._acabar_pegado,
        }

    def teclear(self, datos):
        """Aplica los bytes que llegan del teclado. Da las líneas que se completan; `None`, si es Ctrl+D en una vacía."""
        for tecla in self._descodificador.decode(datos):
            if self._secuencia:
                self._seguir_secuencia(tecla)
            elif tecla == '\x1b':
                self._secuencia = tecla
            elif tecla in '\r\n':
                yield self._aceptar()
            elif tecla == '\x04' and not self._pegando:
                if not self.texto:
                    yield None
                self.borrar()
            elif tecla in self._controles and not self._pegando:
                if tecla != '\t':
                    self._opciones = []
                self._controles[tecla]()
            else:
                self.insertar(protocolo.limpiar(tecla))

    def _seguir_secuencia(self, tecla):
        self._secuencia += tecla
        cuerpo = self._secuencia[1:]
        # CSI acaba en una letra o ~ (ECMA-48, 5.4); SS3 y Meta, en el siguiente carácter.
        completa = '\x40' <= tecla <= '\x7e' and cuerpo != '[' if cuerpo[0] == '[' else cuerpo != 'O'
        if completa or len(cuerpo) > 16:
            self._secuencia, self._opciones = '', []
            self._secuencias.get(cuerpo, lambda: None)()

    def _aceptar(self):
        linea = self.texto
        if linea.strip() and linea not in self._historia[-1:]:
            self._historia = [*self._historia[1 - self.MAX_HISTORIA:], linea]
        self.poner('')
        return linea

    def poner(self, texto):
        """Cambia lo escrito por `texto`, con el cursor al final."""
        self.texto, self.cursor = texto, len(texto)
        self._puesto, self._borrador, self._opciones = len(self._historia), '', []

    def insertar(self, texto):
        texto = texto[:max(0, self.MAX_TEXTO - len(self.texto))]
        self.texto = self.texto[:self.cursor] + texto + self.texto[self.cursor:]
        self.cursor += len(texto)
        self._opciones = []

    # Movimiento: un paso es lo que se ve como un carácter, con sus marcas

    def izquierda(self):
        while self.cursor > 0:
            self.cursor -= 1
            if self.cursor == 0 or _columnas(self.texto[self.cursor]):
                break

    def derecha(self):
        while self.cursor < len(self.texto):
            self.cursor += 1
            if self.cursor == len(self.texto) or _columnas(self.texto[self.cursor]):
                break

    def al_principio(self):
        self.cursor = 0

    def al_final(self):
        self.cursor = len(self.texto)

    def palabra_izquierda(self):
        self.cursor = len(re.sub(r'\S+\s*$', '', self.texto[:self.cursor]))

    def palabra_derecha(self):
        self.cursor += re.match(r'\s*\S*', self.texto[self.cursor:]).end()

    # Borrado

    def _quitar(self, desde, hasta):
        quitado = self.texto[desde:hasta]
        self.texto, self.cursor = self.texto[:desde] + self.texto[hasta:], desde
        return quitado

    def borrar_antes(self):
        fin = self.cursor
        self.izquierda()
        self._quitar(self.cursor, fin)

    def borrar(self):
        inicio = self.cursor
        self.derecha()
        self._quitar(inicio, self.cursor)

    def cortar_final(self):
        self._cortado = self._quitar(self.cursor, len(self.texto))

    def cortar_principio(self):
        self._cortado = self._quitar(0, self.cursor)

    def cortar_palabra(self):
        fin = self.cursor
        self.palabra_izquierda()
        self._cortado = self._quitar(self.cursor, fin)

    def poner_cortado(self):
        self.insertar(self._cortado)

    # Historia

    def anterior(self):
        self._ir_a(self._puesto - 1)

    def siguiente(self):
        self._ir_a(self._puesto + 1)

    def _ir_a(self, puesto):
        if not 0 <= puesto <= len(self._historia):
            return
        if self._puesto == len(self._historia):
            self._borrador = self.texto
        self._puesto = puesto
        self.texto = self._historia[puesto] if puesto < len(self._historia) else self._borrador
        self.cursor = len(self.texto)

    # Tab y pegado

    def completar(self):
        """La primera vez ofrece la primera opción; las siguientes, las demás en rueda."""
        if not self._opciones:
            comienzo = self.texto[:self.cursor]
            self._base = len(comienzo) - len(comienzo.split(' ')[-1])
            self._opciones = self._completar(comienzo)
        if self._opciones:
            opcion, *resto = self._opciones
            self._quitar(self._base, self.cursor)
            self.insertar(opcion)
            self._opciones = [*resto, opcion]

    def _empezar_pegado(self):
        self._pegando = True

    def _acabar_pegado(self):
        self._pegando = False

    # Lo que se ve

    def fila(self, pregunta, ancho):
        """Lo que se ve en `ancho` columnas, `(texto, columna del cursor)`: si no cabe, se desplaza en horizontal."""
        pregunta = pregunta if anchura(pregunta) <= ancho - 14 else '> '
        libre = max(1, ancho - anchura(pregunta) - 1)       # la última columna queda libre: ahí algunas saltan de línea
        inicio = 0
        while anchura(self.texto[inicio:self.cursor]) > libre - 1:
            # de medio en medio ancho, para que el texto no se mueva a cada tecla
            inicio = _avanzar(self.texto, inicio, max(1, libre // 2))
        fin = _avanzar(self.texto, inicio, libre)
        return (pregunta + self.texto[inicio:fin],
                anchura(pregunta) + anchura(self.texto[inicio:self.cursor]))


def _avanzar(texto, posicion, columnas):
    """La posición a la que se llega desde `posicion` sin pasar de `columnas`, avanzando al menos un carácter."""
    inicio = posicion
    while posicion < len(texto):
        columnas -= _columnas(texto[posicion])
        if columnas < 0 and posicion > inicio:
            break
        posicion += 1
    return posicion
