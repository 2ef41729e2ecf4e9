"""Un asedio: el servidor como proceso aparte, tres personas corrientes que no dejan de charlar, y lo que se les eche.

    with asedio('--ritmo', '0') as caso:
        caso.conectar().enviar(b'...')      # lo hostil

Al salir del bloque los hostiles se van, y se comprueba todo lo que un ataque no debe conseguir: que un mensaje de las
tres se pierda, se repita, se desordene o tarde; que llegue a alguien una línea que el servidor no escribiría; que en el
servidor queden hilos, descriptores o memoria; que su consola diga lo que no pasó, o que no termine en orden.
"""

import collections
import contextlib
import os
import re
import secrets
import selectors
import signal
import socket
import statistics
import threading
import time
import unicodedata
from pathlib import Path
from typing import NamedTuple

from red import apagar
from tests.utiles import PLAZO, Persona, Proceso, esperar_a

MIB = 1024 ** 2
# Lo que la memoria del servidor puede haber crecido cuando los hostiles ya no están. 16 MiB son suyos por diseño: las
# últimas tandas, que guarda haya rezagados o no (`max_memoria`). Lo demás es lo que el reservador de memoria de C no
# devuelve tras cientos de hilos, que no crece con lo que dure el ataque.
MEMORIA_DE_MAS = (16 + 24) * MIB

_NICK = r'[^\W_][\w.-]{0,19}|[\w.-]{1,20}'
_QUIEN = rf'(?P<nick>{_NICK}) \((?P<direccion>127\.0\.0\.\d+:\d+)\)'
_LINEA = re.compile(rf'\* .+|\[(?P<nick>{_NICK})\] .*\S.*')
_CONSOLA = [re.compile(forma) for forma in (
    r'Escuchando en 127\.0\.0\.1:\d+ \(Ctrl\+C para terminar\)\.',
    rf'(?P<signo>\+) {_QUIEN} entra; hay \d+', rf'(?P<signo>-) {_QUIEN} sale; quedan \d+',
    rf'(?P<signo>~) {_QUIEN} se corta; se le espera \d+ s', rf'(?P<signo>~) {_QUIEN} vuelve',
    rf'= {_QUIEN} ahora es ({_NICK})',
    r'No puedo (aceptar más conexiones|crear más hilos)\b.*', r'Fin: personas \d+, mensajes \d+, entregas \d+\.')]
_MENSAJE_MOSTRADO = re.compile(rf'\[({_NICK})\] .*')


def de_fiar(linea):
    """Si en `linea` nada mueve un cursor, la parte o le da la vuelta. No usa las reglas del servidor."""
    return linea.isprintable() or not any(
        unicodedata.category(caracter) in ('Cc', 'Zl', 'Zp')
        or unicodedata.bidirectional(caracter) in ('LRE', 'RLE', 'LRO', 'RLO', 'PDF', 'LRI', 'RLI', 'FSI', 'PDI')
        for caracter in linea)


# ── Las tres personas corrientes ─────────────────────────────────────────────────────────────────────────────────

class Contertulia(Persona):
    """Una de las tres: lo que ha dicho, y lo que ha oído."""

    def __init__(self, direccion, nick, clave):
        super().__init__(direccion)
        if clave:
            self.decir(nick, clave)
            linea = self.hasta(lambda linea: linea.startswith('* Hola, '))[0]
            assert linea.removeprefix('Nick: ') == f'Clave: * Tu nick es {nick}'
            self.nick = nick
        else:
            self.entrar(nick)
        self.dichos = []            # el instante en que dijo cada mensaje
        self.oidos = collections.Counter()      # cuántos ha oído de cada una de las otras
        self.ajenas = []            # las demás líneas que ha recibido
        self.vistas = set()         # las mismas, para encontrarlas

    def oir(self):
        """Lee lo que haya y devuelve las líneas que se completan; `None`, si el servidor ha cerrado."""
        sigue = self._leer()
        *lineas, self._pendiente = self._pendiente.split(b'\n')
        return [linea.decode() for linea in lineas] if sigue else None


class Tertulia:
    """Tres personas que se dicen mensajes numerados a un paso fijo, en un solo hilo, hasta que se llame a `terminar`.

    Lo que va mal se apunta en `fallos` y lo dice `comprobar`, que llaman también todas las esperas.
    """

    NICKS = ('ana', 'luis', 'marta')
    PASO = 0.06     # segundos entre mensajes de cada una: algo menos de lo que el ritmo por omisión les deja sostener
    # Lo que nadie llamaría «tardar»: más que esto es una charla parada. Con los dos núcleos ocupados no se pasa de 1 s.
    PACIENCIA = 5.0

    def __init__(self, direccion, clave=None):
        self.personas = [Contertulia(direccion, nick, clave) for nick in self.NICKS]
        for posicion, persona in enumerate(self.personas):
            for posterior in self.NICKS[posicion + 1:]:
                assert persona.linea() == f'* {posterior} entró.'
        self.demoras = []           # segundos entre que se dice un mensaje y lo lee cada una de las otras dos
        self.fallos = []
        self._fin = threading.Event()
        self._hilo = threading.Thread(target=self._charlar, name='tertulia', daemon=True)
        self._hilo.start()

    def _charlar(self):
        try:
            with selectors.DefaultSelector() as selector:
                for persona in self.personas:
                    selector.register(persona.socket, selectors.EVENT_READ, persona)
                siguiente, limite = time.monotonic(), None
                while not self.fallos:
                    if self._fin.is_set():
                        limite = limite or time.monotonic() + PLAZO
                        if not self._faltan():
                            return
                        if time.monotonic() > limite:
                            self.fallos.append(f'no llegaron todos los mensajes: {self._cuentas()}')
                    elif time.monotonic() >= siguiente:
                        self._decir()
                        siguiente = max(siguiente + self.PASO, time.monotonic())
                    for clave, _ in selector.select(min(self.PASO, max(0, siguiente - time.monotonic()))):
                        self._oir(clave.data)
        except (OSError, ValueError) as error:      # ValueError: lo recibido no era UTF-8
            self.fallos.append(f'{error!r}')

    def _decir(self):
        for persona in self.personas:
            persona.dichos.append(time.monotonic())
            persona.decir(f'{len(persona.dichos) - 1}')

    def _oir(self, persona):
        lineas = persona.oir()
        ahora = time.monotonic()
        if lineas is None:
            self.fallos.append(f'el servidor cerró a {persona.nick}')
            return
        for linea in lineas:
            partes = _LINEA.fullmatch(linea)
            if not partes or not de_fiar(linea):
                self.fallos.append(f'{persona.nick} recibió {linea!r}')
            elif partes['nick'] in self.NICKS:
                self._oir_mensaje(persona, linea, partes['nick'], ahora)
            else:
                persona.ajenas.append(linea)
                persona.vistas.add(linea)
                if linea in [f'* {nick} salió.' for nick in self.NICKS] or linea.startswith('* Te perdiste'):
                    self.fallos.append(f'{persona.nick} recibió {linea!r}')

    def _oir_mensaje(self, persona, linea, nick, ahora):
        numero = persona.oidos[nick]
        autora = self.personas[self.NICKS.index(nick)]
        if autora is persona or linea != f'[{nick}] {numero}' or numero >= len(autora.dichos):
            self.fallos.append(f'{persona.nick} esperaba el mensaje {numero} de {nick} y recibió {linea!r}')
            return
        persona.oidos[nick] += 1
        self.demoras.append(ahora - autora.dichos[numero])

    def _cuentas(self):
        return {persona.nick: (len(persona.dichos), dict(persona.oidos)) for persona in self.personas}

    def _faltan(self, cuantos=None):
        """Cuántos mensajes faltan por oír, de los `cuantos` primeros de cada una (`None`: de todos)."""
        return sum(max(0, (len(autora.dichos) if cuantos is None else cuantos) - persona.oidos[autora.nick])
                   for persona in self.personas for autora in self.personas if autora is not persona)

    def esperar(self, condicion, que):
        """Espera a que se cumpla, o a que la charla falle, que es fallar."""
        esperar_a(lambda: self.fallos or condicion(), que)
        self.comprobar()

    def rondas(self, cuantas):
        """Espera a que cada una diga `cuantas` cosas más y las otras las oigan: es el reloj de los asedios."""
        total = len(self.personas[-1].dichos) + cuantas
        self.esperar(lambda: not self._faltan(total), f'{cuantas} rondas de charla: {self._cuentas()}')

    def segundos(self, cuantos):
        """Las rondas que caben en ese tiempo."""
        self.rondas(round(cuantos / self.PASO))

    def oyen(self, *lineas):
        """Espera a que las tres hayan recibido esas líneas."""
        self.esperar(lambda: all(persona.vistas.issuperset(lineas) for persona in self.personas),
                     f'que las tres recibieran {lineas}')

    def oyen_acabar(self, final):
        """Espera a que las tres hayan recibido una línea que acabe así, de quien sea."""
        self.esperar(lambda: all(any(linea.endswith(final) for linea in persona.ajenas[-20:])
                                 for persona in self.personas), f'que las tres recibieran algo acabado en {final!r}')

    def ajenas(self, empieza=''):
        """Las líneas que no son de las tres y empiezan así. Comprueba que las tres han recibido las mismas."""
        iguales = [[linea for linea in persona.ajenas if linea.startswith(empieza)] for persona in self.personas]
        assert iguales[0] == iguales[1] == iguales[2]
        return iguales[0]

    def olvidar_lo_ajeno(self):
        for persona in self.personas:
            persona.ajenas.clear()
            persona.vistas.clear()

    def terminar(self):
        """Dejan de hablar y esperan a haberlo oído todo."""
        self._fin.set()
        self._hilo.join(2 * PLAZO)
        self.comprobar()
        assert not self._hilo.is_alive() and not self._faltan()

    def comprobar(self):
        """Que hasta ahora todo ha llegado, una vez, en orden y sin tardar."""
        assert not self.fallos, self.fallos[:5]
        maxima = max(self.demoras, default=0)
        assert maxima < self.PACIENCIA, \
            f'un mensaje tardó {maxima:.2f} s; la mediana es {statistics.median(self.demoras) * 1000:.1f} ms'

    def demoras_de(self, rondas):
        """Las de las próximas `rondas`."""
        desde = len(self.demoras)
        self.rondas(rondas)
        return self.demoras[desde:]

    def cuantas(self, empieza):
        """Cuántas líneas que empiecen así ha recibido la que más."""
        return max(sum(linea.startswith(empieza) for linea in list(persona.ajenas)) for persona in self.personas)

    def cerrar(self):
        self._fin.set()
        self._hilo.join(2 * PLAZO)
        for persona in self.personas:
            persona.cerrar()


# ── Los hostiles ─────────────────────────────────────────────────────────────────────────────────────────────────

class Hostil(Persona):
    """Alguien a quien no le extraña que lo corten."""

    def enviar_lo_que_deje(self, datos):
        """Envía `datos` hasta que el servidor lo corte. Devuelve si lo admitió todo."""
        try:
            self.enviar(datos)
        except ConnectionError:
            return False
        return True

    def dejar_de_oir(self):
        self.socket.shutdown(socket.SHUT_RD)

    def llenar(self, datos):
        """Envía `datos` una y otra vez hasta que no quepa nada más."""
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.send(datos)
        except BlockingIOError:
            self.socket.settimeout(PLAZO)

    def lo_que_diga(self):
        """Todo lo que el servidor le envíe hasta cerrar o cortar."""
        try:
            while self._leer():
                pass
        except ConnectionError:
            pass
        return self._pendiente

    def sigue_viva(self):
        """Si el servidor no ha cerrado ni cortado."""
        try:
            self.disponible()
        except ConnectionError:
            return False
        return not self._terminado

    def disponible(self):
        """Todo lo recibido hasta ahora, sin esperar y sin darlo por leído."""
        self.socket.setblocking(False)
        try:
            while self._leer():
                pass
        except BlockingIOError:
            pass
        self.socket.settimeout(PLAZO)
        return self._pendiente


class Sesion(Hostil):
    """La conexión de un programa que sabe volver: `#SESION`, y desde ahí líneas numeradas."""

    def __init__(self, direccion, ficha=None, visto=0, **opciones):
        super().__init__(direccion, **opciones)
        self.ficha, self.visto, self._antes = ficha or secrets.token_hex(16), visto, visto
        self.decir(f'#SESION {self.ficha} {visto}')
        respuesta = super().linea().removeprefix('Nick: ')
        partes = re.fullmatch(r'#SESION (\d+) (nueva|retomada)', respuesta)
        assert partes, respuesta
        self.recibidos, self.retomada = int(partes[1]), partes[2] == 'retomada'

    def linea(self):
        entera = super().linea()
        if self.visto == self._antes and entera[0] in '*#':     # aún no ha entrado
            return entera
        numero, _, linea = entera.partition(' ')
        assert numero.isdecimal() and int(numero) > self.visto, f'tras la {self.visto}, la {numero} {linea!r}'
        self.visto = int(numero)
        return linea


@contextlib.contextmanager
def sin_parar(hostil, accion):
    """Mientras dura, otro hilo repite `accion()`; luego se le corta la conexión a `hostil`, que lo saca de ella."""
    parar = threading.Event()

    def repetir():
        while not parar.is_set():
            try:
                accion()
            except OSError:
                return

    hilo = threading.Thread(target=repetir, name='hostil', daemon=True)
    hilo.start()
    try:
        yield
    finally:
        parar.set()
        apagar(hostil.socket)
        hilo.join(PLAZO)
        assert not hilo.is_alive()


# ── El asedio ────────────────────────────────────────────────────────────────────────────────────────────────────

class Medida(NamedTuple):
    """Lo que un proceso tiene ahora, según el sistema."""

    hilos: int
    descriptores: int
    memoria: int        # bytes que ocupa
    maxima: int         # bytes que llegó a ocupar


def medir(pid):
    campos = dict(linea.split(':', 1) for linea in Path(f'/proc/{pid}/status').read_text().splitlines())
    return Medida(int(campos['Threads']), len(os.listdir(f'/proc/{pid}/fd')),
                  int(campos['VmRSS'].split()[0]) * 1024, int(campos['VmHWM'].split()[0]) * 1024)


class Asedio:
    """Lo que una prueba hostil tiene entre manos."""

    def __init__(self, programa, direccion, tertulia, clave):
        self.programa, self.direccion, self.tertulia, self._clave = programa, direccion, tertulia, clave
        self._hostiles = []
        self._calentar()
        self.base = self.medir()

    def _calentar(self):
        """Lo que el servidor hace la primera vez (cargar módulos, reservar) no es culpa de ningún ataque."""
        quieta = self.medir()
        hostil = self.conectar()
        hostil.decir('calor', *([self._clave] if self._clave else []))
        hostil.hasta(lambda linea: linea.startswith('* Hola, '))
        hostil.decir('hola', '/usuarios', '/salir')
        hostil.lo_que_diga()
        self.retirar()
        self.tertulia.oyen('* calor salió.')
        self.esperar_a_estar_como(quieta)
        self.tertulia.rondas(2)
        self.tertulia.olvidar_lo_ajeno()

    def medir(self):
        return medir(self.programa.proceso.pid)

    def conectar(self, **opciones):
        self._hostiles.append(Hostil(self.direccion, **opciones))
        return self._hostiles[-1]

    def persona(self, nick, **opciones):
        """Un hostil que ya está en la sala."""
        hostil = self.conectar(**opciones)
        hostil.entrar(nick)
        return hostil

    def persona_en_cuanto_quepa(self, nick, **opciones):
        """Un hostil que insiste hasta entrar: el servidor no cuenta un sitio como libre hasta un instante después de
        que el sistema lo vea libre."""
        def intentar():
            try:
                return self.persona(nick, **opciones)
            except (AssertionError, ConnectionError):
                return None     # se le cerró: aún no cabía

        self.tertulia.esperar(intentar, f'que cupiera {nick}')
        return self._hostiles[-1]

    def sesion(self, ficha=None, visto=0, **opciones):
        self._hostiles.append(Sesion(self.direccion, ficha, visto, **opciones))
        return self._hostiles[-1]

    def retirar(self):
        """Se van todos los hostiles."""
        for hostil in self._hostiles:
            hostil.cerrar()
        self._hostiles.clear()

    def esperar_a_estar_como(self, medida, hilos=0, descriptores=0):
        """Espera a que el servidor tenga los hilos y descriptores de `medida`, y tantos más."""
        buscado = medida.hilos + hilos, medida.descriptores + descriptores
        try:
            self.tertulia.esperar(lambda: self.medir()[:2] == buscado, 'que se recuperen hilos y descriptores')
        except AssertionError as error:
            raise AssertionError(f'{error}; se esperaban {buscado} y hay {self.medir()[:2]}') from None

    def esperar_vivas(self, cuantas, conexiones):
        """Espera a que el servidor haya cerrado todas menos `cuantas`. Devuelve esas."""
        quedan = list(conexiones)

        def bastan():
            quedan[:] = [conexion for conexion in quedan if conexion.sigue_viva()]
            return len(quedan) <= cuantas

        self.tertulia.esperar(bastan, f'que quedaran {cuantas} conexiones')
        assert len(quedan) == cuantas
        return quedan

    def comprobar_memoria(self, margen=MEMORIA_DE_MAS):
        crecimiento = self.medir().memoria - self.base.memoria
        assert crecimiento < margen, f'la memoria ha crecido {crecimiento / MIB:.1f} MiB'

    def terminar(self, mostrar):
        """Se van los hostiles, todo vuelve a ser lo que era, y el servidor se cierra en orden."""
        self.tertulia.rondas(2)
        self.retirar()
        self.esperar_a_estar_como(self.base)
        self.tertulia.rondas(2)
        self.comprobar_memoria()
        self.tertulia.terminar()
        self.tertulia.cerrar()
        tres = len(self.tertulia.NICKS)     # de quien se va en el mismo instante en que se cierra, la consola no dice nada
        self.esperar_a_estar_como(self.base, hilos=-tres, descriptores=-tres)
        self.programa.senal(signal.SIGTERM)
        codigo, salida, errores = self.programa.final()
        assert (codigo, errores) == (0, [])
        comprobar_consola(salida, mostrar)


def comprobar_consola(lineas, mostrar=False):
    """Que cada línea es de las que el servidor escribe, y que las de cada conexión cuentan una historia posible."""
    historias = collections.defaultdict(str)
    for linea in lineas:
        assert de_fiar(linea), linea
        if mostrar and _MENSAJE_MOSTRADO.fullmatch(linea):
            continue
        partes = next(filter(None, (forma.fullmatch(linea) for forma in _CONSOLA)), None)
        assert partes, f'la consola dice {linea!r}'
        if 'signo' in partes.groupdict():
            historias[partes['direccion']] += partes['signo']
    assert lineas[-1].startswith('Fin: ')
    # Sin sesiones, toda conexión que entra sale. Con ellas puede llegar otra que la releve, cortarse y vencer su plazo.
    # El sistema da a veces a una conexión nueva el puerto de otra que ya acabó: de ahí que quepan varias seguidas.
    posible = r'(\+~?-?|~~?-?)+' if '~' in ''.join(historias.values()) else r'(\+-)+'
    for direccion, historia in historias.items():
        assert re.fullmatch(posible, historia), f'{direccion}: {historia}'


@contextlib.contextmanager
def asedio(*argumentos, clave=None, **lanzamiento):
    """Un servidor asediado. `argumentos` son los suyos; `clave`, la que las tres dicen al entrar; `lanzamiento`, lo
    demás de su proceso."""
    with contextlib.ExitStack() as pila:
        programa = pila.enter_context(Proceso('--puerto', '0', *argumentos, **lanzamiento))
        # Si la prueba falla, lo primero que se quiere ver es lo que dijo el servidor.
        pila.callback(lambda: print(*programa.lineas[-20:], *programa.errores[-60:], sep='\n'))
        direccion = programa.direccion()
        tertulia = Tertulia(direccion, clave)
        pila.callback(tertulia.cerrar)
        caso = Asedio(programa, direccion, tertulia, clave)
        pila.callback(caso.retirar)
        yield caso
        caso.terminar('--mostrar' in argumentos)
