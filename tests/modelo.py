"""Lo que la sala promete, como cuentas: con lo que dijo y recibió cada cliente, `Modelo` dice si se cumple.

La referencia es un testigo que entra el primero, no habla ni se corta y lo lee todo: lo suyo es la lista de la sala.
De ahí sale qué tenía que ver cada uno, de su entrada a su salida, sin lo que él mismo dijo. Que dos clientes vean lo
mismo en el mismo orden se sigue de que los dos vean lo que la lista dice.

Cada línea de un cliente formal empieza por su marca, `«vida.línea»`: así se sabe de quién es, diga lo que diga el nick.
"""

import bisect
import collections
import re
import unicodedata
from typing import NamedTuple

from config import TAM_BUFFER, TAM_NICK
from protocolo import clave_nick

TESTIGO = 'testigo'
# Cómo acaba una vida. Sin despedida: se fue, y lo último ya no cabía en la memoria del servidor.
DENTRO, DESPEDIDA, SIN_DESPEDIDA, CORTADA = 'dentro', 'despedida', 'sin despedida', 'cortada'

MARCA = re.compile(r'\[(\S+)\] (?:\(privado\) )?(/?«(\d+)\.(\d+)».*)')
PRIVADO = re.compile(r'\[\S+\] \(privado\) .*')
PRESENCIA = re.compile(r'\* (\S+) (?:(entró|salió)|ahora es (\S+))\.')
HOLA = re.compile(r'\* Hola, (\S+)\. (?:No hay nadie más|Está[n]? (.+?)(?: y (\d+) más)?)\. /ayuda .*')
HASTA_LUEGO = re.compile(r'\* Hasta luego, \S+\.')
PERDIDAS = re.compile(r'\* Te perdiste (\d+) mensajes\.')
VIVO = re.compile('#VIVO ([0-9]+)')
_TU_NICK = re.compile(r'\* Tu nick es (\S+)')
_DE_ENTRADA = re.compile(r'\* (Tu nick es |Ya hay alguien que se llama |Hola, ).*')
_ENVIADO = re.compile(r'\* Enviado a (\S+) en privado\.( Está reconectando: lo recibirá si vuelve\.)?')
_FORMA = re.compile(rf'\[[^\]\s]{{1,{TAM_NICK}}}\] (\(privado\) )?.{{1,{TAM_BUFFER}}}|\* .+')
_NUMERADA = re.compile('([1-9][0-9]*) (.*)')
_DIRECCION = '\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069'


class Fallo(AssertionError):
    """Una promesa rota: cuál, a quién y con qué línea."""

    def __init__(self, promesa, quien='', linea='', avance=0):
        super().__init__(f'no se cumple que {promesa}\n  cliente: {quien}\n  línea: {linea!r}')
        self.avance = avance    # hasta dónde de la lista iba todo bien


# ── Las líneas ───────────────────────────────────────────────────────────────────────────────────────────────────

class Linea(NamedTuple):
    """Una línea recibida. El número es 0 si no hay sesión."""

    texto: str
    numero: int = 0


def leer_linea(datos, quien, con_numero=False):
    """La `Linea` que son los bytes `datos`. Falla si no se puede enseñar sin mirarla."""
    try:
        texto = datos.decode()
    except UnicodeDecodeError:
        raise Fallo('cada línea es UTF-8', quien, datos) from None
    if not texto.isprintable() and any(unicodedata.category(letra) in ('Cc', 'Zl', 'Zp') or letra in _DIRECCION
                                       for letra in texto):
        raise Fallo('ninguna línea lleva controles ni órdenes de dirección', quien, texto)
    numero = 0
    if con_numero:
        partes = _NUMERADA.fullmatch(texto)
        if not partes:
            raise Fallo('cada línea de una sesión lleva su número', quien, texto)
        numero, texto = int(partes[1]), partes[2]
    if not _FORMA.fullmatch(texto) and not (con_numero and VIVO.fullmatch(texto)):
        raise Fallo('cada línea empieza por [nick] o *, y cabe', quien, texto)
    return Linea(texto, numero)


def de_la_sala(texto):
    """Si es para todos: un mensaje, o quién entra, sale o cambia de nick. Lo demás es para uno solo."""
    return bool(PRESENCIA.fullmatch(texto)) or texto.startswith('[') and not PRIVADO.fullmatch(texto)


class Dicho(NamedTuple):
    """Una línea que envía alguien, qué ha de verse de ella y qué se le ha de contestar."""

    linea: str
    visible: str = ''
    respuestas: tuple = ()      # expresiones regulares, una por línea
    destino: str = ''           # el nick al que va, si es privada


class Vida:
    """Una estancia en la sala, de la entrada a la salida: lo que alguien dijo en ella y lo que recibió."""

    def __init__(self, numero, nick, con_sesion=False):
        self.numero, self.nick, self.con_sesion = numero, nick, con_sesion
        self.dichos, self.recibidas, self.final = [], [], DENTRO

    def __str__(self):
        return f'{self.nick} (vida {self.numero}, {"con" if self.con_sesion else "sin"} sesión, {self.final})'

    def vio(self, texto):
        """Si ha recibido esa línea."""
        return any(linea.texto == texto for linea in reversed(self.recibidas))

    def es_suya(self, texto):
        """Si esa línea de la sala es un mensaje suyo."""
        marca = MARCA.fullmatch(texto)
        return marca is not None and int(marca[3]) == self.numero

    def a_medias(self, numero, texto):
        """Si `texto` puede ser lo que salió de su línea `numero` al cortarse en ella: sin sesión, vale hasta ahí."""
        return self.final == CORTADA and not self.con_sesion and texto.rstrip('\ufffd') in self.dichos[numero].linea

    def nicks(self):
        """Los que se le confirmaron."""
        return [confirmado[1] for linea in self.recibidas if (confirmado := _TU_NICK.fullmatch(linea.texto))]

    def visto(self):
        """`(bienvenida, resto)`: hasta `* Hola, …`, incluida, y tras ella. Si no la vio, o solo en parte, la primera
        está vacía y la segunda empieza en el aviso de lo que se perdió."""
        for posicion, linea in enumerate(self.recibidas):
            if HOLA.fullmatch(linea.texto):
                return self.recibidas[:posicion + 1], self.recibidas[posicion + 1:]
            if PERDIDAS.fullmatch(linea.texto):
                return [], self.recibidas[posicion:]
        return [], []


# ── Las cuentas ──────────────────────────────────────────────────────────────────────────────────────────────────

class Modelo:
    """La lista de la sala y lo que de ella tenía que ver cada uno."""

    def __init__(self, testigo, historial=0, puede_perder=False):
        """`testigo`: las líneas que recibió, tras su bienvenida. `puede_perder`: la memoria del servidor es pequeña."""
        if any(PERDIDAS.fullmatch(linea.texto) for linea in testigo):
            raise Fallo('el testigo lo ve todo; sin él no hay con qué comparar', TESTIGO)
        lista = [linea for linea in testigo if de_la_sala(linea.texto)]
        self.lista, self._numeros = [linea.texto for linea in lista], [linea.numero for linea in lista]
        self.historial, self.puede_perder = historial, puede_perder
        self.entregas = self.perdidas = 0
        self._entradas = {}                                 # posición en la lista → quiénes había
        self._dicho = collections.defaultdict(list)         # vida → [(línea, texto)], según la lista
        self._duenos = collections.Counter()                # clave de nick → cuántas veces se tomó
        self._repasar_la_lista()

    def comprobar(self, vidas):
        """Falla si a alguna de `vidas` no se le cumplió algo."""
        enviados = {}       # (vida, línea) de cada privado que el servidor dijo haber enviado → nick
        for vida in vidas:
            self._comprobar_lo_dicho(vida)
            bienvenida, resto = vida.visto()
            perdidas = [int(aviso[1]) for linea in resto if (aviso := PERDIDAS.fullmatch(linea.texto))]
            if perdidas and not self.puede_perder:
                raise Fallo('con memoria de sobra nadie se pierde nada', vida, perdidas)
            self.perdidas += sum(perdidas)
            if bienvenida or perdidas:
                self._comprobar_lo_visto(vida, bienvenida, resto)
                enviados.update(self._comprobar_respuestas(vida, resto))
            elif vida.final != CORTADA:
                raise Fallo('a quien entra se le da la bienvenida', vida)
        self._comprobar_privados({vida.numero: vida for vida in vidas}, enviados)

    # La lista, por sí sola

    def _repasar_la_lista(self):
        presentes = {}      # clave del nick → [nick, vida según sus marcas]
        self._tomar_nick(presentes, TESTIGO, [TESTIGO, None])
        for posicion, texto in enumerate(self.lista):
            if texto.startswith('['):
                self._repasar_mensaje(presentes, texto)
                continue
            quien, paso, nuevo = PRESENCIA.fullmatch(texto).groups()
            estancia = [quien, None]
            if paso == 'entró':
                self._entradas[posicion] = [nick for nick, _ in presentes.values()]
            else:
                estancia = presentes.pop(clave_nick(quien), None)
                if not estancia or estancia[0] != quien:
                    raise Fallo('nadie sale ni cambia de nick sin haber entrado', quien, texto)
            if paso != 'salió':
                estancia[0] = nuevo or quien
                self._tomar_nick(presentes, estancia[0], estancia)

    def _tomar_nick(self, presentes, nick, estancia):
        if clave_nick(nick) in presentes:
            raise Fallo('no hay dos nicks iguales a la vez', nick)
        presentes[clave_nick(nick)] = estancia
        self._duenos[clave_nick(nick)] += 1

    def _repasar_mensaje(self, presentes, texto):
        nick = texto[1:texto.index(']')]
        quien = presentes.get(clave_nick(nick))
        if not quien or quien[0] != nick:
            raise Fallo('solo habla quien está, y con su nick', nick, texto)
        if marca := MARCA.fullmatch(texto):
            vida = int(marca[3])
            if quien[1] not in (None, vida):
                raise Fallo('nadie habla por otro', f'{nick}, que es la vida {quien[1]}', texto)
            quien[1] = vida
            self._dicho[vida].append((int(marca[4]), marca[2]))

    # Lo que dijo cada uno

    def _comprobar_lo_dicho(self, vida):
        debido = [(numero, dicho.visible) for numero, dicho in enumerate(vida.dichos)
                  if dicho.visible and not dicho.destino]
        visto = list(self._dicho[vida.numero])
        if visto and visto[-1] not in visto[:-1] and vida.a_medias(*visto[-1]):
            visto.pop()
        for salio, esperado in zip(visto, debido):
            if salio != esperado:
                raise Fallo('lo que dice cada uno sale una vez, entero y en su orden', vida,
                            f'{salio[1]} (tocaba {esperado[1]})')
        if len(visto) > len(debido):
            raise Fallo('lo que dice cada uno sale una sola vez', vida, visto[len(debido)][1])
        if len(visto) < len(debido) and vida.final != CORTADA:
            raise Fallo('todo lo que dice quien no se corta sale', vida, debido[len(visto)][1])

    # Lo que vio cada uno

    def _comprobar_lo_visto(self, vida, bienvenida, resto):
        lineas = [linea for linea in resto if de_la_sala(linea.texto)]
        for linea in lineas:
            if vida.es_suya(linea.texto):
                raise Fallo('a nadie se le devuelve lo suyo', vida, linea.texto)
        if vida.con_sesion:
            self._comprobar_sesion(vida, bienvenida, resto)
        else:
            self._comprobar_simple(vida, bienvenida, resto)
        self.entregas += len(lineas)

    def _comprobar_bienvenida(self, vida, bienvenida, posicion):
        textos = [linea.texto for linea in bienvenida]
        mensajes = [texto for texto in self.lista[:posicion] if texto.startswith('[')]
        if [texto for texto in textos if texto.startswith('[')] != mensajes[max(0, len(mensajes) - self.historial):]:
            raise Fallo(f'quien entra ve los últimos mensajes ({self.historial})', vida, textos[0], posicion)
        _, nicks, otros = HOLA.fullmatch(textos[-1]).groups()
        nicks, presentes = nicks.replace(' (reconectando)', '').split(', ') if nicks else [], self._entradas[posicion]
        if not set(nicks) <= set(presentes) or len(nicks) + int(otros or 0) != len(presentes):
            raise Fallo(f'quien entra sabe quién está ({", ".join(presentes)})', vida, textos[-1], posicion)

    # Con sesión, el número dice el puesto de cada línea en la lista

    def _comprobar_sesion(self, vida, bienvenida, resto):
        if bienvenida:
            posicion = bisect.bisect(self._numeros, bienvenida[0].numero) - 1
            if posicion not in self._entradas or self.lista[posicion] != f'* {vida.nicks()[0]} entró.':
                raise Fallo('toda entrada se anuncia, y es entonces', vida, bienvenida[0].texto)
            self._comprobar_bienvenida(vida, bienvenida, posicion)
        visto, primera = (bienvenida[-1].numero, 0) if bienvenida else (resto[0].numero, 1)
        for linea in resto[primera:]:
            perdidas = PERDIDAS.fullmatch(linea.texto)
            hueco = list(self._hueco(vida, visto, linea.numero))
            if perdidas and not len(hueco) <= int(perdidas[1]) <= linea.numero - visto:
                raise Fallo(f'se dice cuánto se pierde ({len(hueco)})', vida, linea.texto)
            if hueco and not perdidas:
                raise Fallo('nada se pierde', vida, f'{hueco[0]} (llegó {linea.numero} {linea.texto})')
            if de_la_sala(linea.texto):
                self._comprobar_puesto(vida, linea)
            visto = linea.numero
        if vida.final == DENTRO and visto < self._numeros[-1]:
            raise Fallo('quien está hasta el final lo ve todo', vida, self.lista[-1])

    def _hueco(self, vida, visto, numero):
        """Las líneas que debió ver entre la número `visto` y la `numero`."""
        suyos = {_sin_sufijo(nick) for nick in (vida.nick, *vida.nicks())}
        for posicion in range(bisect.bisect(self._numeros, visto), bisect.bisect_left(self._numeros, numero)):
            texto = self.lista[posicion]
            presencia = PRESENCIA.fullmatch(texto)
            if not vida.es_suya(texto) and not (presencia and _sin_sufijo(presencia[1]) in suyos):
                yield texto

    def _comprobar_puesto(self, vida, linea):
        posicion = bisect.bisect_left(self._numeros, linea.numero)
        if self._numeros[posicion:posicion + 1] != [linea.numero] or self.lista[posicion] != linea.texto:
            raise Fallo('todos ven lo mismo con el mismo número', vida, f'{linea.numero} {linea.texto}')

    # Sin sesión, se recorre la lista con lo que vio, que ha de ser lo mismo sin lo suyo

    def _comprobar_simple(self, vida, bienvenida, resto):
        textos = [linea.texto for linea in resto if de_la_sala(linea.texto) or PERDIDAS.fullmatch(linea.texto)]
        personales = sum(len(dicho.respuestas) for dicho in vida.dichos) - (len(resto) - len(textos))
        if not bienvenida:
            personales += self.historial + 5    # la bienvenida es lo primero que se perdió
        fallo = Fallo('toda entrada se anuncia', vida, vida.recibidas[0].texto, -1)
        for posicion in self._entradas:
            nick = PRESENCIA.fullmatch(self.lista[posicion])[1]
            if nick != vida.nicks()[0] if bienvenida else _sin_sufijo(nick) != _sin_sufijo(vida.nick):
                continue
            try:
                if bienvenida:
                    self._comprobar_bienvenida(vida, bienvenida, posicion)
                final = self._alinear(vida, (posicion + 1, nick), textos, max(0, personales))
                siguiente = self._siguiente(vida, final)[1]
                if siguiente and vida.final in (DENTRO, DESPEDIDA):
                    raise Fallo('quien no se corta lo ve todo, hasta su salida', vida, siguiente, final[0])
            except Fallo as este:   # puede ser la entrada de otro, que tuvo ese nick antes o después
                fallo = max(fallo, este, key=lambda fallo: fallo.avance)
            else:
                return
        raise fallo

    def _alinear(self, vida, punto, textos, personales):
        """Sigue la lista desde `punto`: por qué posición se va, y con qué nick. Devuelve hasta dónde se llega."""
        for indice, texto in enumerate(textos):
            if perdidas := PERDIDAS.fullmatch(texto):
                return self._saltar(vida, punto, textos[indice:], int(perdidas[1]), personales)
            punto, esperado = self._siguiente(vida, punto)
            if esperado != texto:
                raise self._diferencia(vida, textos, indice, esperado, punto[0])
        return punto

    def _saltar(self, vida, punto, textos, perdidas, personales):
        """Tras un aviso de pérdidas: de ellas, hasta `personales` pueden ser líneas que iban solo para él."""
        fallo = Fallo('', avance=-1)
        for suyas in range(min(perdidas, personales) + 1):
            destino = punto
            for _ in range(perdidas - suyas):
                destino, _ = self._siguiente(vida, destino)
            try:
                return self._alinear(vida, destino, textos[1:], personales - suyas)
            except Fallo as este:
                fallo = max(fallo, este, key=lambda fallo: fallo.avance)
        raise Fallo(f'la cuenta de lo perdido es exacta; si lo es, {fallo}', vida, textos[0], fallo.avance)

    def _siguiente(self, vida, punto):
        """El punto tras la siguiente línea que le toca ver, y esa línea; `None` si no hay más."""
        posicion, nick = punto
        while posicion < len(self.lista):
            texto = self.lista[posicion]
            posicion += 1
            presencia = PRESENCIA.fullmatch(texto)
            if presencia and presencia[1] == nick:
                if presencia[2] == 'salió':
                    return (len(self.lista), nick), None
                nick = presencia[3]
            elif not vida.es_suya(texto):
                return (posicion, nick), texto
        return (posicion, nick), None

    def _diferencia(self, vida, textos, indice, esperado, avance):
        texto = textos[indice]
        if MARCA.fullmatch(texto) and texto in textos[:indice]:
            return Fallo('nada llega dos veces', vida, texto, avance)
        if texto not in self.lista:
            return Fallo('lo que ve uno lo ven todos', vida, texto, avance)
        if esperado is None:
            return Fallo('a nadie le llega lo que se dice cuando no está', vida, texto, avance)
        if esperado in textos[indice:]:
            return Fallo('todos ven el mismo orden', vida, f'{texto} (tocaba {esperado})', avance)
        return Fallo('nada se pierde', vida, f'{esperado} (llegó {texto})', avance)

    # Lo que es para uno solo

    def _comprobar_respuestas(self, vida, resto):
        """Cada orden se obedece una vez y por su turno. Devuelve los privados que se le confirmaron."""
        debidas = collections.deque((respuesta, numero) for numero, dicho in enumerate(vida.dichos)
                                    for respuesta in dicho.respuestas)
        enviados = {}
        for texto, _ in resto:
            if texto[0] in '[#' or PRESENCIA.fullmatch(texto) or PERDIDAS.fullmatch(texto):
                continue
            if HASTA_LUEGO.fullmatch(texto):
                break
            while debidas and self.puede_perder and not re.fullmatch(debidas[0][0], texto):
                debidas.popleft()
            if debidas and re.fullmatch(debidas[0][0], texto):
                if enviado := _ENVIADO.fullmatch(texto):
                    enviados[vida.numero, debidas[0][1]] = enviado[1]
                debidas.popleft()
            elif not _DE_ENTRADA.fullmatch(texto):      # al volver tras `plazo_ausencia` se entra otra vez sin pedirlo
                raise Fallo(f'cada orden se contesta una vez y por su turno (tocaba {list(debidas)[:1]})', vida, texto)
        if debidas and vida.final != CORTADA and not self.puede_perder:
            raise Fallo('toda orden se contesta', vida, vida.dichos[debidas[0][1]].linea)
        return enviados

    def _comprobar_privados(self, vidas, enviados):
        llegados, unicos = set(), set()
        for vida in vidas.values():
            nicks = set(map(clave_nick, vida.nicks()))
            if vida.final == DENTRO and len(nicks) == 1:
                unicos |= nicks
            for texto, _ in vida.recibidas:
                marca = PRIVADO.fullmatch(texto) and MARCA.fullmatch(texto)
                if not marca or int(marca[3]) not in vidas:
                    continue    # de alguien que no juega limpio
                clave = int(marca[3]), int(marca[4])
                autor, dicho = vidas[clave[0]], vidas[clave[0]].dichos[clave[1]]
                if dicho.visible != marca[2] and not autor.a_medias(clave[1], marca[2]):
                    raise Fallo('un privado llega entero', vida, texto)
                if nicks and clave_nick(dicho.destino) not in nicks:
                    raise Fallo('un privado solo le llega a quien va dirigido', vida, texto)
                if clave in llegados:
                    raise Fallo('un privado llega una sola vez', vida, texto)
                llegados.add(clave)
        self.entregas += len(llegados)
        for clave, nick in enviados.items():
            # Al que se va o cambia de nick en ese instante puede no llegarle: solo se exige de quien lo tuvo siempre.
            if clave not in llegados and not self.puede_perder and clave_nick(nick) in unicos \
                    and self._duenos[clave_nick(nick)] == 1:
                raise Fallo('un privado que se da por enviado llega', nick, vidas[clave[0]].dichos[clave[1]].linea)


def _sin_sufijo(nick):
    """El nick que se pidió, si el que se tuvo es `nick`; también si se volvió a pedir varias veces."""
    return re.sub(r'(_\d+)+$', '', nick)
