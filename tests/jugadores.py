"""Los jugadores de `fuzz`: clientes que hacen cosas al azar, y apuntan en su `Vida` lo que dicen y lo que reciben.

Todos comparten un hilo y un selector, los de su mesa. Cada jugada trae su propio azar.
"""

import contextlib
import os
import re
import selectors
import socket
import struct

from config import MAX_LINEA
from tests.modelo import CORTADA, DESPEDIDA, HASTA_LUEGO, HOLA, PERDIDAS, SIN_DESPEDIDA, VIVO, Dicho, Fallo, Vida, \
    leer_linea

LEER, ESCRIBIR = selectors.EVENT_READ, selectors.EVENT_WRITE
PREGUNTAS = re.compile(b'^(Nick: )*(Clave: )*')
CIERRE = '* El servidor se cierra. Hasta luego.'


# ── Una conexión ─────────────────────────────────────────────────────────────────────────────────────────────────

class Conexion:
    """Un socket que no espera a nada, y su dueño, a quien se le da cada línea (`recibir`) y el final (`terminar`)."""

    def __init__(self, mesa, dueno):
        self.mesa, self.dueno = mesa, dueno
        self.leyendo, self.acabada = True, False
        self._salida, self._entrada = bytearray(), b''
        self.socket = socket.socket()
        if dueno.buzon:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, dueno.buzon)
        self.socket.connect(mesa.direccion)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._vigilada = 0
        self._vigilar()
        mesa.conexiones.add(self)

    def enviar(self, datos, trozo=MAX_LINEA):
        for inicio in range(0, len(datos), trozo):
            self._salida += datos[inicio:inicio + trozo]
            self._vaciar()

    def leer(self, leyendo):
        self.leyendo = leyendo
        self._vigilar()

    def terminar_de_hablar(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def cerrar(self, con_rst=False):
        """Cierra sin más, o con un RST, como un cable o un programa que muere."""
        if not self.acabada:
            self.acabada = True
            self._vigilar()
            if con_rst:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                       struct.pack('hh' if os.name == 'nt' else 'ii', 1, 0))
            self.socket.close()
            self.mesa.conexiones.discard(self)

    def atender(self, sucesos):
        if sucesos & ESCRIBIR:
            self._vaciar()
        if sucesos & LEER and not self.acabada:
            self._recibir()

    def _vaciar(self):
        try:
            while self._salida and not self.acabada:
                del self._salida[:self.socket.send(self._salida)]
        except BlockingIOError:
            pass
        except OSError:
            self._salida.clear()    # lo que ya llegó se ha de leer: el final se sabrá al leer
        self._vigilar()

    def _recibir(self):
        try:
            datos = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            datos = b''
        self._entrada += datos
        while not self.acabada and (partes := self.dueno.separar(self._entrada)):
            linea, self._entrada = partes
            self.dueno.recibir(self, linea)
        if not datos:
            self.cerrar()
            self.dueno.terminar(self)

    def _vigilar(self):
        sucesos = 0 if self.acabada else LEER * self.leyendo | ESCRIBIR * bool(self._salida)
        if sucesos != self._vigilada:
            if self._vigilada:
                self.mesa.selector.unregister(self.socket)
            if sucesos:
                self.mesa.selector.register(self.socket, sucesos, self)
            self._vigilada = sucesos


# ── Los jugadores ────────────────────────────────────────────────────────────────────────────────────────────────

RELLENOS = ['', ' hola', ' ¿qué tal el año?', ' 😀👨‍👩‍👧', ' 你好，世界', '  dos  espacios', ' [otro] no soy yo',
            ' * ana salió.', ' #VIVO 3', ' 7 * Te perdiste 3 mensajes.', ' "%s\\n{}', ' مرحبا', ' ' + 'x' * 170, ' ' + '你' * 170]


class Jugador:
    """Alguien que hace jugadas al azar. `ACCIONES`: cuáles, con su peso."""

    ACCIONES = {}

    def __init__(self, mesa, nick, buzon=None):
        self.mesa, self.nick, self.buzon = mesa, nick, buzon
        self.conexion = None

    def jugar(self, azar):
        accion, = azar.choices(list(self.ACCIONES), list(self.ACCIONES.values()))
        self.mesa.cifras['acciones'] += 1
        getattr(self, accion)(azar)

    def callar(self, _):
        """Deja de leer, o vuelve a leer."""
        if self.conexion:
            self.conexion.leer(not self.conexion.leyendo)

    def enmarcar(self, linea):
        """Los bytes con que la envía."""
        return f'{linea}\n'.encode()

    def separar(self, datos):
        """`(línea, resto)` de lo recibido, o `None` si aún no hay una línea."""
        linea, fin, resto = datos.partition(b'\n')
        return (linea, resto) if fin else None

    def recibir(self, conexion, datos):
        raise NotImplementedError

    def terminar(self, conexion):
        if conexion is self.conexion:
            self.conexion = None


class Formal(Jugador):
    """Quien cumple el protocolo: de lo suyo se lleva la cuenta."""

    vida = None

    def nueva_vida(self, con_sesion):
        self.vida = Vida(self.mesa.siguiente_vida(), self.nick, con_sesion)
        self.mesa.vidas.append(self.vida)

    def inventar(self, azar):
        """Apunta en su vida una línea nueva, y la devuelve."""
        marca = f'«{self.vida.numero}.{len(self.vida.dichos)}»'
        texto = (marca + azar.choice(RELLENOS)).rstrip()
        if azar.random() < 0.2 * self.mesa.con_comandos:
            return self.apuntar(self._inventar_orden(azar, marca, texto))
        return self.apuntar(azar.choice([
            *[Dicho(texto, texto)] * 4, Dicho(f'[{self.nick}] {texto}', texto), Dicho(f'//{texto}', f'/{texto}'),
            Dicho(f'{texto}  ', texto)]))

    def _inventar_orden(self, azar, marca, texto):
        otro, nuevo = azar.choice(self.mesa.nicks), f'{self.nick}-{azar.choice("abc")}'
        return azar.choice([
            Dicho(''), Dicho('  \u200b '),
            Dicho(marca + 'ñ' * 200, respuestas=(r'\* Mensaje no enviado: tiene \d+ caracteres .*',)),
            Dicho('/usuarios', respuestas=(r'\* Están? .*\.',)),
            Dicho('/ayuda', respuestas=(r'\* /\w+.*: .*',) * 5),
            Dicho('/baila', respuestas=(r'\* Comando desconocido: /baila\..*',)),
            Dicho(f'/nick {nuevo}', respuestas=(rf'\* Tu nick es {nuevo}(_\d+)?',)),
            *[Dicho(f'/privado {otro} {texto}', texto, (
                r'\* Enviado a \S+ en privado\.( Está .*)?|\* No hay nadie que se llame .*',), otro)] * 4])

    def apuntar(self, dicho):
        self.vida.dichos.append(dicho)
        self.mesa.cifras['mensajes'] += bool(dicho.visible)
        return self.enmarcar(dicho.linea)


class Simple(Formal):
    """Como quien entra con `nc`."""

    ACCIONES = {'decir': 10, 'a_medias': 1, 'callar': 1, 'despedirse': 0.3, 'semicerrar': 0.4, 'cortar': 0.4}
    FIN_DE_LINEA = b'\n'

    def __init__(self, *argumentos, **opciones):
        super().__init__(*argumentos, **opciones)
        self._falta = b''           # lo que queda de la línea que va a medias
        self._eco_pedido = self._eco = False
        self._saliendo = False

    def entrar(self):
        if self.conexion is None:
            self.nueva_vida(con_sesion=False)
            self._falta, self._eco_pedido, self._eco, self._saliendo = b'', False, False, False
            self.conexion = Conexion(self.mesa, self)
            self.conexion.enviar(b''.join(map(self.enmarcar, [self.nick, *self.mesa.claves])))

    def decir(self, azar):
        self.entrar()
        if not self._saliendo:
            datos = b''.join(self.inventar(azar) for _ in range(azar.choice([1, 1, 2, 4])))
            self._enviar(datos, azar.choice([1, 7, 1000, 1000]))

    def a_medias(self, azar):
        self.entrar()
        if not self._saliendo:
            datos = self.inventar(azar)
            corte = azar.randrange(len(datos))
            self._enviar(datos[:corte])
            self._falta = datos[corte:]

    def _enviar(self, datos, trozo=1000):
        falta, self._falta = self._falta, b''
        self.conexion.enviar(falta + datos, trozo)

    def despedirse(self, azar):
        if self.conexion and not self._saliendo:
            self._enviar(self.enmarcar(azar.choice(['#LOGOUT', '/Salir \r', '\n#Logout\n'])))
            self.semicerrar(azar)

    def semicerrar(self, _):
        """Deja de hablar y sigue leyendo. La línea que iba a medias vale, aunque le falte el final."""
        if self.conexion and not self._saliendo:
            self._saliendo = True
            self._falta = self._falta.removesuffix(self.FIN_DE_LINEA)
            self._enviar(b'')
            self.conexion.terminar_de_hablar()
            self.conexion.leer(True)

    def cortar(self, azar):
        if self.conexion:
            self.vida.final = CORTADA
            self.conexion.cerrar(con_rst=azar.random() < 0.5)
            self.conexion = None
            self.mesa.cifras['cortes'] += 1

    def recibir(self, conexion, datos):
        if not self.vida.recibidas:
            datos = PREGUNTAS.sub(b'', datos)
        linea = leer_linea(datos, self.vida)
        self.vida.recibidas.append(linea)
        if PERDIDAS.fullmatch(linea.texto):
            self._eco_pedido = False    # quizá se perdió
        elif linea.texto.startswith(f'* Comando desconocido: /eco{self.vida.numero}.'):
            self._eco = True

    def terminar(self, conexion):
        """El servidor ha cerrado."""
        if conexion is not self.conexion:
            return
        self.conexion = None
        if self.mesa.parada:
            return
        if not self._saliendo:
            raise Fallo('el servidor no corta a quien no lo pide', self.vida, self.vida.recibidas[-1:])
        self.vida.final = SIN_DESPEDIDA if self.mesa.puede_perder else DESPEDIDA

    def sosegarse(self):
        """Da un paso más hacia el final. Cierto cuando el servidor ya tiene todo lo que ha dicho."""
        if self.conexion is None:
            return True
        self.conexion.leer(True)
        if not self._eco_pedido and not self._saliendo:
            self._eco_pedido, eco = True, f'/eco{self.vida.numero}'
            self._enviar(self.apuntar(Dicho(eco, respuestas=(rf'\* Comando desconocido: {eco}\..*',))))
        return self._eco and not self._saliendo

    def presente(self):
        return self.conexion is not None

    def vio_el_cierre(self):
        return self.vida.vio(CIERRE)


class ConCabecera(Simple):
    """Como `Simple`, con cada mensaje precedido de su longitud. Recibe dos por línea: el autor, o `*`, y el texto."""

    FIN_DE_LINEA = b''

    def enmarcar(self, linea):
        datos = linea.encode()
        return f'{len(datos):<10}'.encode() + datos

    def separar(self, datos):
        datos, partes = PREGUNTAS.sub(b'', datos), []
        for _ in ('autor', 'texto'):
            largo = int(datos[:10] or 0)
            if len(datos) < 10 + largo or not datos:
                return None
            partes.append(datos[10:10 + largo])
            datos = datos[10 + largo:]
        quien, texto = partes
        return (b'* ' if quien == b'*' else b'[%b] ' % quien) + texto, datos


class Sesion(Formal):
    """Un programa con sesión: guarda lo dicho hasta que se acepta, y vuelve tras cada corte."""

    ACCIONES = {'decir': 10, 'cortar': 2, 'volver': 2, 'insistir': 0.5, 'callar': 0.6, 'preguntar': 0.8,
                'despedirse': 0.3}

    def __init__(self, *argumentos, **opciones):
        super().__init__(*argumentos, **opciones)
        self._ficha, self._visto = '', 0
        self._fase = ''             # de la conexión: saludo, nick o dentro
        self._confirmada = False    # si se sabe que el servidor conoce la ficha
        self._puestas = 0           # cuántas líneas se han enviado por esta conexión o se aceptaron antes
        self._aceptadas = 0         # cuántas ha dicho el servidor que ha aceptado
        self._acuse = 0             # cuántas dice el último `#VIVO`: al volver llegan antes los que no se vieron
        self._preguntado = False
        self._se_va = False
        self._sustituidas = []      # conexiones que se dejaron abiertas: las ha de cerrar el servidor
        self._sin_respuesta = []    # las que se dejaron antes de saber si el servidor las tenía por la de la sesión

    # Jugadas

    def decir(self, azar):
        if self.conexion is None:
            self._abrir(azar)
        if not self._se_va:
            for _ in range(azar.choice([1, 1, 2, 4])):
                self.inventar(azar)
            self._enviar_pendientes(azar.choice([1, 7, 1000, 1000]))

    def preguntar(self, _):
        if self._fase == 'dentro':
            self.conexion.enviar(b'#VIVO\n')

    def despedirse(self, azar):
        if self.conexion and not self._se_va:
            self._se_va = True
            self.apuntar(Dicho(azar.choice(['#LOGOUT', '/salir'])))
            self._enviar_pendientes()
            if azar.random() < 0.5:
                self.cortar(azar)

    def cortar(self, azar):
        if self.conexion is None:
            return
        if azar.random() < 0.4 and not self._se_va:     # a mitad de una línea
            linea = self.inventar(azar)
            if self._fase == 'dentro':
                self.conexion.enviar(linea[:azar.randrange(len(linea))])
        conexion, manera = self.conexion, azar.choice(['fin', 'rst', 'fantasma', 'semicierre'])
        self._abandonar(azar)
        if manera == 'semicierre':
            conexion.terminar_de_hablar()
        elif manera != 'fantasma':
            conexion.cerrar(con_rst=manera == 'rst')

    def volver(self, azar):
        """Abre otra conexión; si aún tenía una, la deja atrás sin decir nada."""
        if self.conexion:
            self._abandonar(azar)
        self._abrir(azar)

    def insistir(self, azar):
        """Vuelve varias veces seguidas, sin esperar respuesta."""
        for _ in range(azar.randint(2, 4)):
            self.volver(azar)

    def _abandonar(self, azar):
        self.conexion.leer(azar.random() < 0.5)
        (self._sustituidas if self._fase == 'dentro' else self._sin_respuesta).append(self.conexion)
        self.conexion, self._fase = None, ''
        self.mesa.cifras['cortes'] += 1

    def entrar(self):
        self._renacer(f'{self.mesa.siguiente_vida():032x}')
        self._conectar()

    def _abrir(self, azar):
        if self.vida is None:
            self._renacer(f'{azar.getrandbits(128):032x}')
        if azar.random() < 0.1:     # un intento que se corta antes de decir nada entero
            intento = Conexion(self.mesa, self)
            intento.enviar(self._saludo()[:azar.randrange(40)])
            intento.cerrar(con_rst=True)
        self._conectar(azar.choice(self.mesa.trozos_del_saludo))

    def _conectar(self, trozo=1000):
        self.conexion, self._fase, self._preguntado = Conexion(self.mesa, self), 'saludo', False
        self.conexion.enviar(self._saludo(), trozo)
        self.mesa.cifras['regresos'] += self._confirmada

    def _saludo(self):
        return f'#SESION {self._ficha} {self._visto}\n'.encode()

    def _renacer(self, ficha):
        self.nueva_vida(con_sesion=True)
        self._ficha, self._visto, self._confirmada = ficha, 0, False
        self._puestas = self._aceptadas = self._acuse = 0
        self._se_va = False

    def _enviar_pendientes(self, trozo=1000):
        if self._fase == 'dentro':
            lineas = [self.enmarcar(dicho.linea) for dicho in self.vida.dichos[self._puestas:]]
            self._puestas = len(self.vida.dichos)
            self.conexion.enviar(b''.join(lineas), trozo)

    # Lo que llega

    def recibir(self, conexion, datos):
        if conexion is not self.conexion:
            return      # de un fantasma ya no se hace caso
        if self._fase == 'saludo':
            self._saludar(datos)
            return
        if self._fase == 'nick' and datos == b'#CLAVE':
            self.conexion.enviar(self.enmarcar(*self.mesa.claves))
            return
        linea = leer_linea(datos, self.vida, con_numero=True)
        texto, numero = linea
        self._avanzar(numero, texto)
        self._confirmada = True
        self.vida.recibidas.append(linea)
        if acuse := VIVO.fullmatch(texto):
            self._acusar(int(acuse[1]))
        elif self._fase == 'nick' and HOLA.fullmatch(texto):
            self._fase = 'dentro'
            self._enviar_pendientes()
        elif PERDIDAS.fullmatch(texto):
            self._preguntado = False
        elif HASTA_LUEGO.fullmatch(texto):
            self.vida.final = DESPEDIDA
            self._sustituidas.append(self.conexion)
            self.vida, self.conexion, self._fase = None, None, ''

    def _avanzar(self, numero, texto):
        if numero <= self._visto:
            raise Fallo('los números de una sesión crecen', self.vida, f'{numero} {texto} (tras el {self._visto})')
        self._visto = numero

    def _saludar(self, datos):
        partes = re.fullmatch(rb'(?:Nick: )?#SESION (\d+) (nueva|retomada)', datos)
        if not partes:
            raise Fallo('a #SESION se contesta #SESION', self.vida, datos)
        if partes[2] == b'retomada':
            self._confirmada, self._fase = True, 'dentro'
            self._aceptar(int(partes[1]))
            self._puestas = self._aceptadas
            self._enviar_pendientes()
            return
        if self._confirmada:
            if not self.mesa.puede_olvidar:
                raise Fallo('la sala recuerda las sesiones', self.vida, datos)
            self.vida.final = CORTADA
            self._renacer(self._ficha)
        self._fase = 'nick'
        self.conexion.enviar(self.enmarcar(self.nick))

    def _aceptar(self, cuantas):
        if not self._aceptadas <= cuantas <= len(self.vida.dichos):
            raise Fallo('lo aceptado ni mengua ni pasa de lo enviado', self.vida,
                        f'{cuantas} (antes {self._aceptadas}; enviadas {len(self.vida.dichos)})')
        self._aceptadas = cuantas

    def _acusar(self, cuantas):
        if cuantas < self._acuse:
            raise Fallo('los acuses no menguan', self.vida, f'{cuantas} (antes {self._acuse})')
        self._acuse = cuantas
        self._aceptar(max(cuantas, self._aceptadas))

    def terminar(self, conexion):
        if conexion is not self.conexion:
            return
        fase, self.conexion, self._fase = self._fase, None, ''
        if self._se_va and fase == 'dentro' and self._aceptadas == len(self.vida.dichos) and self.mesa.puede_perder:
            self.vida.final, self.vida = SIN_DESPEDIDA, None
            return
        # Una de antes, que no llegó a tener respuesta y cuyo hilo se atendió después, puede haber sustituido a esta.
        if not self._se_va and not self._sin_respuesta and not self.mesa.parada:
            raise Fallo('el servidor no corta a quien no lo pide', self.vida, self.vida.recibidas[-1:])

    def sosegarse(self):
        """Como en `Simple`, o cuando se ha visto la despedida; y además, sin nada que haya quedado abierto."""
        for conexion in self._sin_respuesta:
            conexion.cerrar()
        for conexion in self._sustituidas:
            conexion.leer(True)
        if self.vida is not None and self.conexion is None:
            self._conectar()
        if self.conexion is not None:
            self.conexion.leer(True)
            if self._fase == 'dentro' and not self._preguntado and not self._se_va:
                self._preguntado = True
                self.conexion.enviar(b'#VIVO\n')
        return all(conexion.acabada for conexion in self._sustituidas) and (
            self.vida is None or self._fase == 'dentro' and not self._se_va
            and self._aceptadas == len(self.vida.dichos))

    def presente(self):
        return self.vida is not None

    def vio_el_cierre(self):
        ultima = self.vida.recibidas[-1].texto
        return self.vida.vio(CIERRE) and ultima == f'#VIVO {len(self.vida.dichos)}'


class Roto(Jugador):
    """Quien no cumple nada. De lo que recibe solo se mira la forma, y sin la clave no tendría que pasar."""

    ACCIONES = {'barbaridad': 8, 'otra_conexion': 2, 'callar': 1, 'semicerrar': 0.5, 'cortar': 1}

    def __init__(self, *argumentos, **opciones):
        super().__init__(*argumentos, **opciones)
        self._numero = self.mesa.siguiente_vida()

    def barbaridad(self, azar):
        self.conexion = self.conexion or Conexion(self.mesa, self)
        datos = b''.join(self._inventar(azar) + azar.choice([b'\n', b'\n', b'\r\n', b''])
                         for _ in range(azar.randint(1, 4)))
        self.conexion.enviar(datos, azar.choice([1, 3, 1000]) if len(datos) < 2000 else MAX_LINEA)

    def _inventar(self, azar):
        otro = azar.choice(self.mesa.nicks)
        return azar.choice([
            lambda: self.nick.encode(), lambda: f'[{self.nick}] hola'.encode(), lambda: azar.randbytes(60),
            lambda: bytes(range(256)), lambda: bytes(50), lambda: b'x' * 300, lambda: 'ñ'.encode()[:1],
            lambda: b'x' * azar.choice([MAX_LINEA, MAX_LINEA + 1, 3 * MAX_LINEA]), lambda: '😀'.encode()[:3],
            lambda: b'\x1b[2J\x1b]0;t\x07\x9b31m', lambda: '\u202eabc\u2066\u2028d\u2029\ufeff'.encode(),
            lambda: f'[{otro}] «{self._numero}.0» soy {otro}'.encode(), lambda: b'\n' * 30, lambda: b'\r' * 9,
            lambda: f'* {otro} salió.'.encode(), lambda: f'/nick {otro}'.encode(), lambda: b'/nick \x1b',
            lambda: b'/privado', lambda: f'/privado {otro} \x00'.encode(), lambda: b'/salir ya', lambda: b'#LOGOUT',
            lambda: self._de_sesion(azar), lambda: self._con_cabecera(azar)])()

    def _de_sesion(self, azar):
        ficha = azar.choice([f'{self._numero:032x}', f'{self._numero:032X}', 'f' * 31, 'g' * 32, '', '\u0661' * 32])
        numero = azar.choice(['0', '1', '-1', '+1', '1e9', '9' * 18, '9' * 5000, '\u0663', 'x', '', '0 0'])
        return azar.choice([f'#SESION {ficha} {numero}', f'#SESION {self._numero:032x} {numero}\n{self.nick}',
                            f'#VIVO{numero}', '#VIVO', f'#VIVO {numero}', '#CLAVE', f'#CLAVE {numero}', '#sesion',
                            f'#SESION  {ficha}', f' #SESION {ficha} 0']).encode()

    def _con_cabecera(self, azar):
        """Si es lo primero de su conexión, lo que reciba irá igual, y ya no se mira."""
        return azar.choice([
            '5         hola\n', '4         hola', '-1        x', '99999999999', '3         😀', '1e3       x', '0         ',
            '65536     x', '65537     x', f'{len(self.nick.encode()):<10}{self.nick}']).encode()

    def otra_conexion(self, azar):
        if self.conexion and azar.random() < 0.5:
            self.conexion.cerrar()
        self.conexion = Conexion(self.mesa, self)

    def semicerrar(self, _):
        if self.conexion:
            self.conexion.terminar_de_hablar()

    def cortar(self, _):
        if self.conexion:
            self.conexion.cerrar(con_rst=True)
            self.conexion = None

    def recibir(self, conexion, datos):
        datos = PREGUNTAS.sub(b'', datos)
        if not re.fullmatch(rb'#SESION \d+ (nueva|retomada)|#VIVO \d+|#(CLAVE|NICK)', datos):
            leer_linea(datos, self.nick, con_numero=datos[:1].isdigit())
