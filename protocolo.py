"""El protocolo, sin E/S: entran bytes y salen mensajes; entran mensajes y salen bytes.

TCP entrega un río de bytes: junta lo que se envió por separado y corta donde quiere, también en mitad de una «ñ».
Cada familia de clientes marca de un modo dónde acaba un mensaje: hay una clase, un marco, por modo, y todos convierten
bytes en líneas y líneas en bytes. Aquí no hay sockets, ni hilos, ni relojes: cada regla se prueba con una línea.

    bytes  →  marco  →  presentacion (la primera línea) o interpretar (las demás)     cliente → servidor
    prefijo, privado, aviso  →  codificar  →  marco  →  bytes                         servidor → clientes
"""

import bisect
import codecs
import re
import unicodedata

from config import MAX_LINEA, TAM_BUFFER, TAM_NICK

NICK, CLAVE = 'Nick', 'Clave'     # lo que se pregunta a quien llega
REGLA_NICK = f'de 1 a {TAM_NICK} letras, números o _ - . (sin espacios)'
SALIDAS = ('#logout', '/salir')
VIVO = '#VIVO'                      # lo que un programa pregunta para saber si se le oye; véase `sesion.py`

# Controles C0 y C1 (salvo el fin de línea, que ya separó las líneas), DEL, separadores de línea y párrafo,
# órdenes de dirección (UAX #9) y la marca de orden de bytes que Windows pone al principio de los archivos.
_PROHIBIDOS = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]')
# Lo que no deja tinta, sea espacio o no: un mensaje hecho solo de esto está vacío, y en un nick no se vería.
_SIN_TINTA = r'\s\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u2060-\u2064\u2800\u3164\uffa0'
_VACIO = re.compile(f'[{_SIN_TINTA}]*')
_ORILLAS = re.compile(f'^[{_SIN_TINTA}]+|[{_SIN_TINTA}]+$')
_CON_PREFIJO = re.compile(r'\[([^\]]*)\] ?(.*)')
_PREFIJO = re.compile(r'\[[^\]]*\]')
_FUERA_DE_NICK = re.compile(rf'[^\w.-]|[{_SIN_TINTA}]')


# ── Marcos: de bytes a líneas, y de líneas a bytes ───────────────────────────────────────────────────────────────

class Lineas:
    """Cada mensaje acaba en un fin de línea. Se corte como se corte el río, las líneas son las mismas.

    `rebosa` es cierto desde que llega algo que no cumple `REGLA`; a partir de ahí no sale nada más.
    """

    REGLA = f'Una línea no puede pasar de {MAX_LINEA // 1024} KiB.'

    def __init__(self, maximo=MAX_LINEA):
        self._maximo = maximo
        self._resto = bytearray()
        self.rebosa = False

    def recibir(self, datos):
        """Añade `datos` y devuelve la lista de líneas que se han completado, sin su fin de línea."""
        if self.rebosa:
            return []
        corte = datos.rfind(b'\n') + 1
        if corte == 0:
            self._resto += datos
            self.rebosa = len(self._resto) > self._maximo
            return []
        bloque = datos      # casi siempre
        if self._resto or corte < len(datos):
            bloque, self._resto = bytes(self._resto) + datos[:corte], bytearray(datos[corte:])
        if len(bloque) > self._maximo or len(self._resto) > self._maximo:
            return self._hasta_rebosar(bloque.split(b'\n')[:-1])
        return [limpiar(linea) for linea in bloque.decode('utf-8', 'replace').split('\n')[:-1]]

    def _hasta_rebosar(self, lineas):
        cabe = [len(linea) <= self._maximo for linea in (*lineas, self._resto)]
        self.rebosa = not all(cabe)
        return [_texto(linea) for linea in lineas[:cabe.index(False) if self.rebosa else None]]

    def terminar(self):
        """Fin de la entrada: la última línea, si quedó sin terminar. Devuelve una lista de una línea o vacía."""
        resto, self._resto = self._resto, bytearray()
        return [] if self.rebosa or not resto else [_texto(resto)]

    @staticmethod
    def codificar(lineas, numero):
        """Los bytes con que se envían `lineas`, ya codificadas; `numero` es el de la primera en la lista de la sala."""
        return lineas

    @staticmethod
    def cortar(datos, enviados):
        """Dónde acaba la línea que deja a medias quien solo envió `enviados` bytes, y cuántas van hasta ahí."""
        corte = datos.find(b'\n', enviados - 1) + 1 if enviados else 0
        return corte, datos.count(b'\n', 0, corte)


class Numeradas(Lineas):
    """Lo que recibe quien abrió una sesión: `<n> <línea>`. Con el número dice, si se corta, por dónde iba."""

    @staticmethod
    def codificar(lineas, numero):
        return b''.join([b'%d %b\n' % par for par in enumerate(lineas.split(b'\n')[:-1], numero)])

    @staticmethod
    def separar(linea):
        """`(número, línea)` de una línea numerada; el número es 0 si no lo tiene."""
        numero, _, resto = linea.partition(' ')
        return (int(numero), resto) if numero.isascii() and numero.isdigit() and len(numero) < 19 else (0, linea)

    @staticmethod
    def buscar(datos, visto):
        """Dónde empieza en `datos` la primera línea con un número mayor que `visto`, y cuántas hay antes."""
        lineas = datos.split(b'\n')[:-1]
        antes = bisect.bisect(lineas, visto, key=lambda linea: Numeradas.separar(linea[:20].decode('utf-8', 'replace'))[0])
        return sum(map(len, lineas[:antes])) + antes, antes


class Cabecera:
    """Cada mensaje va precedido de su longitud: bytes en UTF-8, en decimal y a la izquierda de 10 caracteres.

    Así lo hace el tutorial de `select` más conocido. Lo que recibe son dos así: el nick de quien habla, y su texto.
    """

    TAM = 10    # bytes de la longitud
    REGLA = (f'Antes de cada mensaje va su longitud en bytes, {MAX_LINEA} a lo sumo, en {TAM} caracteres: '
             'cifras y luego espacios.')
    _LARGO = re.compile(rb'([0-9]+) +')

    def __init__(self, maximo=MAX_LINEA):
        self._maximo = maximo
        self._resto = bytearray()
        self.rebosa = False

    def recibir(self, datos):
        """Añade `datos` y devuelve los mensajes que se han completado; un fin de línea también los separa."""
        self._resto += datos
        lineas, inicio = [], 0
        while not self.rebosa and len(self._resto) >= inicio + self.TAM:
            partes = self._LARGO.fullmatch(self._resto, inicio, inicio + self.TAM)
            fin = inicio + self.TAM + int(partes[1]) if partes else 0
            self.rebosa = not partes or int(partes[1]) > self._maximo
            if self.rebosa or fin > len(self._resto):
                break
            lineas += [_texto(linea) for linea in self._resto[inicio + self.TAM:fin].split(b'\n')]
            inicio = fin
        del self._resto[:len(self._resto) if self.rebosa else inicio]
        return lineas

    def terminar(self):
        """Fin de la entrada: un mensaje a medias no vale."""
        return []

    @staticmethod
    def codificar(lineas, numero):
        return b''.join([_con_cabecera(parte) for linea in lineas.split(b'\n')[:-1]
                         for parte in _autor_y_texto(linea.decode())])

    @staticmethod
    def cortar(datos, enviados):
        fin = cuantas = 0
        while fin < enviados:
            for _ in ('autor', 'texto'):
                fin += Cabecera.TAM + int(datos[fin:fin + Cabecera.TAM])
            cuantas += 1
        return fin, cuantas


def _con_cabecera(texto):
    datos = texto.encode('utf-8', 'replace')
    return f'{len(datos):<{Cabecera.TAM}}'.encode() + datos


def _autor_y_texto(linea):
    quien, texto = autor(linea)
    return (quien, texto) if quien is not None else ('*', linea.removeprefix('* '))


class Crudo(Lineas):
    """Nada dice dónde acaba un mensaje: es lo que dio una lectura. Los que TCP haya pegado se separan por los fines de
    línea y donde se repite el prefijo `[nick]` con el que empezó el primero. Recibe líneas, como quien las envía."""

    def __init__(self):
        super().__init__()
        self._descodificador = codecs.getincrementaldecoder('utf-8')('replace')     # guarda media letra si la hay
        self._prefijo = None        # el del primer mensaje; '' si no lo tenía

    def recibir(self, datos):
        return self._separar(self._descodificador.decode(datos))

    def terminar(self):
        return self._separar(self._descodificador.decode(b'', final=True))

    def _separar(self, texto):
        lineas = [limpiar(linea) for linea in texto.split('\n') if linea]
        if self._prefijo is None and lineas:
            prefijo = _PREFIJO.match(lineas[0])
            self._prefijo = prefijo[0] if prefijo else ''
        return [mensaje for linea in lineas for mensaje in self._por_las_costuras(linea) if mensaje]

    def _por_las_costuras(self, linea):
        if not self._prefijo:
            return [linea]
        primero, *otros = linea.split(self._prefijo)
        return [primero, *(self._prefijo + texto for texto in otros)]


def reconocer(primeros, silencio):
    """El marco de quien ha empezado por los bytes `primeros`, o `None` si aún no se sabe. `silencio`: en un segundo desde
    el primero no han llegado más."""
    if len(primeros) >= Cabecera.TAM and Cabecera._LARGO.fullmatch(primeros, 0, Cabecera.TAM):
        return Cabecera
    if b'\n' in primeros or len(primeros) > MAX_LINEA:
        return Lineas
    return Crudo if silencio else None


def _texto(linea):
    return limpiar(linea.decode('utf-8', 'replace'))


def limpiar(texto):
    """`texto` sin nada que pueda mover el cursor, falsear una línea o darle la vuelta; el tabulador pasa a espacio."""
    if texto.isprintable():     # casi siempre, y cuatro veces más rápido que buscar lo prohibido
        return texto
    return _PROHIBIDOS.sub('', texto.replace('\t', ' '))


def codificar(texto):
    """Los bytes de una o varias líneas, con su fin de línea."""
    return (texto + '\n').encode('utf-8', 'replace')


# ── Lo que dice un cliente ───────────────────────────────────────────────────────────────────────────────────────

MENSAJE, COMANDO, SALIDA, PULSO, LARGO, NADA = 'mensaje', 'comando', 'salida', 'pulso', 'largo', 'nada'


def interpretar(linea, prefijos):
    """Qué es una línea limpia de quien ya está en la sala: `(clase, texto)`.

    `prefijos` son los suyos, como `('[ana] ',)`: si la línea empieza por uno, se le quita.
    Clases: `MENSAJE`, `COMANDO` (con su barra), `SALIDA`, `PULSO`, `LARGO` (pasa de `TAM_BUFFER` caracteres) y `NADA`.
    """
    con_prefijo = linea.startswith(prefijos)
    if con_prefijo:
        linea = linea[len(next(filter(linea.startswith, prefijos))):]
    texto = linea.rstrip()
    if '0' <= texto[:1] <= 'z' and len(texto) <= TAM_BUFFER:
        return MENSAJE, texto       # casi siempre: un texto corriente no necesita más preguntas, y así cuesta la mitad
    if texto[:1] in '/#':
        return _interpretar_especial(texto, con_prefijo)
    return _medir(MENSAJE, texto)


def _interpretar_especial(texto, con_prefijo):
    if es_salida(texto):
        return SALIDA, texto
    if texto == VIVO and not con_prefijo:   # un programa no se lo pone
        return PULSO, texto
    if texto.startswith('//'):
        return _medir(MENSAJE, texto[1:])
    return _medir(COMANDO if texto.startswith('/') else MENSAJE, texto)


def _medir(clase, texto):
    if len(texto) > TAM_BUFFER:
        return LARGO, texto
    return (NADA if vacio(texto) else clase), texto


def es_salida(texto):
    """Si `texto` es `#LOGOUT` o `/salir`, solo y en mayúsculas o minúsculas."""
    return texto.strip().casefold() in SALIDAS


def vacio(texto):
    """Si en `texto` no hay nada que se vea."""
    return _VACIO.fullmatch(texto) is not None


def presentacion(linea):
    """La primera línea de un cliente, `nick` o `[nick] texto`: devuelve `(nick sin arreglar, texto o '')`.

    Del nick, solo el principio: se guarda mientras dure la sesión, y arreglar uno de 64 KiB llevaría medio minuto.
    """
    con_prefijo = _CON_PREFIJO.fullmatch(linea.strip())
    nick, texto = con_prefijo.groups() if con_prefijo else (linea, '')
    return nick[:TAM_BUFFER], texto


def aviso_largo(texto):
    """Lo que se responde a un mensaje demasiado largo."""
    return f'Mensaje no enviado: tiene {len(texto)} caracteres y el límite es {TAM_BUFFER}.'


# ── Nicks ────────────────────────────────────────────────────────────────────────────────────────────────────────

def arreglar_nick(texto):
    """El nick que sale de `texto`: NFC, lo que no sea letra, número o `_ - .` pasa a `_`, y `TAM_NICK` caracteres.

    Devuelve `''` si no queda nada. La cadena que devuelve ya no cambia si se arregla otra vez.
    """
    texto = unicodedata.normalize('NFC', _ORILLAS.sub('', limpiar(texto)[:TAM_BUFFER]))
    return _FUERA_DE_NICK.sub('_', texto)[:TAM_NICK]


def nick_correcto(texto):
    """Si `texto` es un nick tal como está (la forma NFC aparte)."""
    return bool(texto) and arreglar_nick(texto) == unicodedata.normalize('NFC', texto)


def clave_nick(nick):
    """Lo que se compara para saber si dos nicks son el mismo: NFKC y sin mayúsculas (UTS #36, «Ana» = «ana»)."""
    return unicodedata.normalize('NFKC', unicodedata.normalize('NFKC', nick).casefold())


def nick_libre(nick, ocupado):
    """`nick` si no está ocupado, o `nick_2`, `nick_3`… `ocupado(clave)` dice si lo está; se la llama O(log n) veces."""
    def tomado(numero):
        return ocupado(clave_nick(_con_sufijo(nick, numero)))

    if not ocupado(clave_nick(nick)):
        return nick
    tomados, libre = 1, 2
    while tomado(libre):
        tomados, libre = libre, libre * 2
    while libre - tomados > 1:
        medio = (tomados + libre) // 2
        tomados, libre = (medio, libre) if tomado(medio) else (tomados, medio)
    return _con_sufijo(nick, libre)


def _con_sufijo(nick, numero):
    sufijo = f'_{numero}'
    return nick[:TAM_NICK - len(sufijo)] + sufijo


# ── Lo que dice el servidor ──────────────────────────────────────────────────────────────────────────────────────

_TU_NICK = '* Tu nick es '
_PRESENCIAS = [re.compile(forma) for forma in (
    r'\* (?P<entran>\S+) entró\.', r'\* (?P<sale>\S+) salió\.', r'\* (?P<sale>\S+) ahora es (?P<entran>\S+)\.',
    r'\* (Hola, \S+ )?Están? (?P<entran>\S+( \(reconectando\))?(, \S+( \(reconectando\))?)*?)( y \d+ más)?\.( .*)?')]
RECONECTANDO = ' (reconectando)'    # tras el nick de quien se ha cortado y aún puede volver
# Los comandos y sus argumentos: de aquí salen /ayuda y lo que completa el tabulador.
COMANDOS = {
    '/ayuda': ('', 'muestra los comandos'),
    '/usuarios': ('', 'quién está en la sala'),
    '/nick': ('NUEVO', 'cambia tu nick'),
    '/privado': ('NICK TEXTO', 'dice algo solo a una persona'),
    '/salir': ('', 'te vas; también #LOGOUT'),
}


def prefijo(nick):
    """Lo que antecede a los mensajes de `nick`."""
    return f'[{nick}] '


def privado(nick, texto):
    """La línea de un mensaje privado de `nick`."""
    return f'[{nick}] (privado) {texto}'


def aviso(texto):
    """La línea de un aviso del servidor."""
    return f'* {texto}'


def aviso_entra(nick):
    """La línea que anuncia que alguien ha entrado."""
    return aviso(f'{nick} entró.')


def aviso_sale(nick):
    """La línea que anuncia que alguien se ha ido."""
    return aviso(f'{nick} salió.')


def aviso_cambio(antes, ahora):
    """La línea que anuncia un cambio de nick."""
    return aviso(f'{antes} ahora es {ahora}.')


def pregunta(que):
    """Lo que se pregunta a una persona, sin fin de línea."""
    return f'{que}: '


def pregunta_a_programa(que):
    """La misma pregunta en una sesión: una línea que una persona no ve."""
    return f'#{que.upper()}'


SIN_CLAVE = 'Sin la clave no se puede entrar. Adiós.'


def despedida(nick):
    """Lo último que se dice a quien se va porque quiere."""
    return f'Hasta luego, {nick}.'


def aviso_de_nick(nick):
    """La línea con que el servidor confirma a un cliente cuál es su nick."""
    return _TU_NICK + nick


def nick_avisado(linea):
    """El nick que confirma `linea` si es de las de `aviso_de_nick`; si no, `None`. Un mensaje no puede imitarla."""
    return linea[len(_TU_NICK):] if linea.startswith(_TU_NICK) else None


def autor(linea):
    """`(nick, texto)` de una línea de mensaje; `(None, linea)` si es otra cosa."""
    partes = _CON_PREFIJO.fullmatch(linea)
    return partes.groups() if partes else (None, linea)


def presencia(linea):
    """Qué nicks dice `linea` que hay y que ya no hay: dos listas."""
    if quien := autor(linea)[0]:
        return [quien], []
    for forma in _PRESENCIAS:
        if partes := forma.fullmatch(linea):
            entran, salen = partes.groupdict().get('entran'), partes.groupdict().get('sale')
            return entran.replace(RECONECTANDO, '').split(', ') if entran else [], [salen] if salen else []
    return [], []
