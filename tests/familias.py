"""Un cliente de cada familia, escrito mirando solo la tabla del README: qué envía cada una y qué espera.

No comparten ni una línea con el programa: si él y sus clientes se equivocaran igual, nadie lo notaría. Todos entran,
hablan y escuchan del mismo modo, y apuntan lo que reciben en `recibidos`, como pares `(autor, texto)`; el autor de un
aviso es `AVISO`. Lo que no cumple lo que su familia espera es un error, no algo que se salte.
"""

import os
import re
import socket
import struct

from tests.utiles import PLAZO

AVISO = '*'


class _Familia:
    """Lo común a todas: un socket, lo recibido y hasta dónde se ha mirado."""

    def __init__(self, direccion, nick, *, lee_de_uno=False, buzon=None):
        self.nick, self._direccion, self._buzon = nick, direccion, buzon
        self._tope = 1 if lee_de_uno else 65536     # bytes de cada lectura
        self._envia_de_uno = False
        self.recibidos, self._mirados = [], 0
        self.socket, self._terminado = None, False

    # Entrar

    def llegar(self):
        """Conecta. La familia que habla sin que nadie le pregunte lo hace ya."""
        self.conectar()

    def conectar(self):
        self.socket = socket.socket()
        self.socket.settimeout(PLAZO)
        if self._buzon is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buzon)
        self.socket.connect(self._direccion)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._terminado = False

    def presentarse(self):
        """Lo que le falte por decir para entrar."""

    def entrar(self):
        """Conecta, se presenta y espera la bienvenida, que devuelve con todo lo que la precede."""
        self.llegar()
        self.presentarse()
        return self.bienvenida()

    def bienvenida(self):
        return self.hasta(lambda autor, texto: autor == AVISO and texto.startswith('Hola, '))

    # Hablar

    def enviar(self, datos):
        if self._envia_de_uno:
            for byte in datos:
                self.socket.sendall(bytes([byte]))
        else:
            self.socket.sendall(datos)

    def irse(self):
        """Se despide como lo hace su familia."""
        self.decir('/salir')

    def romper(self):
        """Corta con un RST, como un cable o un programa que muere."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                               struct.pack('hh' if os.name == 'nt' else 'ii', 1, 0))
        self.socket.close()

    def terminar_de_hablar(self):
        self.socket.shutdown(socket.SHUT_WR)

    def cerrar(self):
        if self.socket is not None:
            self.socket.close()

    # Escuchar

    def _recibir(self, cuantos):
        """Una lectura, de `cuantos` bytes a lo sumo. `b''`: el servidor ha cerrado."""
        datos = self.socket.recv(min(cuantos, self._tope))
        self._terminado = not datos
        return datos

    def hasta(self, cumple):
        """Recibe hasta un par que cumpla, y devuelve los nuevos: él es el último. Falla si el servidor cierra antes."""
        inicio = self._mirados
        while True:
            while self._mirados < len(self.recibidos):
                self._mirados += 1
                if cumple(*self.recibidos[self._mirados - 1]):
                    return self.recibidos[inicio:self._mirados]
            assert not self._terminado, f'{self.nick}: el servidor cerró tras {self.recibidos[-5:]}'
            self._escuchar()

    def esperar(self, autor, texto):
        """Recibe hasta ese par."""
        return self.hasta(lambda *par: par == (autor, texto))

    def siguiente(self):
        """El próximo par."""
        return self.hasta(lambda *_: True)[0]

    def hasta_el_final(self):
        """Recibe hasta que el servidor cierra. Devuelve los pares nuevos."""
        while not self._terminado:
            self._escuchar()
        inicio, self._mirados = self._mirados, len(self.recibidos)
        return self.recibidos[inicio:]


class _DeTexto(_Familia):
    """Las que enseñan lo que llega, sea lo que sea: una persona sabe leer `[ana] hola`. Aquí hay que separarlo."""

    _PREGUNTAS = re.compile('^((Nick|Clave): )+')       # no acaban la línea: lo que llegue después va detrás

    def conectar(self):
        super().conectar()
        self._a_medias = b''

    @property
    def a_medias(self):
        """El texto de la última línea, que aún no ha acabado: así llegan las preguntas."""
        return self._a_medias.decode()

    def _escuchar(self):
        *lineas, self._a_medias = (self._a_medias + self._recibir(self._tope)).split(b'\n')
        for linea in lineas:
            linea = self._PREGUNTAS.sub('', linea.decode())
            partes = re.fullmatch(r'\[([^]]*)\] (.*)|\* (.*)', linea)
            assert partes, f'{self.nick}: {linea!r} no es un mensaje ni un aviso'
            self.recibidos.append((AVISO, partes[3]) if partes[1] is None else (partes[1], partes[2]))

    def preguntada(self, pregunta):
        """Espera a que le pregunten eso."""
        while not self.a_medias.endswith(pregunta):
            assert not self._terminado, f'{self.nick}: no se le preguntó {pregunta!r}'
            self._escuchar()


class A(_DeTexto):
    """Líneas: el nick y cada texto, acabados en un fin de línea. Espera líneas."""

    def __init__(self, direccion, nick, *, envia_de_uno=False, **opciones):
        super().__init__(direccion, nick, **opciones)
        self._envia_de_uno = envia_de_uno

    def llegar(self):
        super().llegar()
        self.decir(self.nick)

    def decir(self, *textos):
        self.enviar(''.join(f'{texto}\n' for texto in textos).encode())


class B(_Familia):
    """Cabecera de 10 bytes, como el tutorial de `select`: longitud y nick nada más conectar; luego, longitud y texto.

    Espera cabecera, autor, cabecera y texto. Lee longitudes exactas: cualquier otra cosa le haría perder el paso.
    """

    def __init__(self, direccion, nick, *, envia_de_uno=False, **opciones):
        super().__init__(direccion, nick, **opciones)
        self._envia_de_uno = envia_de_uno

    def llegar(self):
        super().llegar()
        self.decir(self.nick)

    def decir(self, *textos):
        self.enviar(b''.join(map(self.con_cabecera, textos)))

    def preguntada(self, pregunta):
        """Espera a que le pregunten eso: aquí es un aviso más."""
        self.hasta(lambda autor, texto: autor == AVISO and texto.strip() == pregunta.strip())

    @staticmethod
    def con_cabecera(texto):
        datos = texto.encode() if isinstance(texto, str) else texto
        return f'{len(datos):<10}'.encode() + datos

    def _escuchar(self):
        cabecera = self._justos(10)
        if cabecera:
            autor = self._justos(self._longitud(cabecera))
            texto = self._justos(self._longitud(self._justos(10)))
            assert not self._terminado, f'{self.nick}: el servidor cerró a mitad de un mensaje'
            self.recibidos.append((autor.decode(), texto.decode()))

    def _justos(self, cuantos):
        datos = b''
        while len(datos) < cuantos and not self._terminado:
            datos += self._recibir(cuantos - len(datos))
        assert len(datos) in (0, cuantos), f'{self.nick}: el servidor cerró tras {datos!r}'
        return datos

    def _longitud(self, cabecera):
        assert re.fullmatch(rb'[0-9]+ *', cabecera), f'{self.nick} ha perdido el paso: {cabecera!r} no es una longitud'
        return int(cabecera)


class C(_DeTexto):
    """Crudo y con prefijo: calla hasta que su usuario escribe; entonces `[Ana] hola`, sin final, en un envío."""

    TOPE = 150      # caracteres, con el prefijo

    def presentarse(self, saludo='hola'):
        self.decir(saludo)

    def decir(self, *textos):
        for texto in textos:
            self.enviar(self.con_prefijo(texto).encode())

    def con_prefijo(self, texto):
        mensaje = f'[{self.nick}] {texto}'
        assert len(mensaje) <= self.TOPE
        return mensaje

    def irse(self):
        self.decir('#LOGOUT')


class D(_DeTexto):
    """Crudo y preguntado: espera a que el servidor hable, y eso es para él la pregunta; entonces, el nick y los textos,
    sin final. Si se corta y vuelve, dice el nick sin esperar a nadie."""

    def presentarse(self):
        while not self.a_medias and not self.recibidos:
            assert not self._terminado, f'{self.nick}: el servidor cerró sin preguntar'
            self._escuchar()
        self.decir(self.nick)

    def volver(self):
        self.cerrar()
        self.llegar()
        self.decir(self.nick)
        return self.bienvenida()

    def decir(self, *textos):
        for texto in textos:
            self.enviar(texto.encode())


class E(_Familia):
    """Eco: un texto de hasta 200 caracteres, crudo o con su fin de línea; y espera sus mismos bytes."""

    TOPE = 200      # caracteres

    def __init__(self, direccion, nick='eco', *, con_lineas=False, **opciones):
        super().__init__(direccion, nick, **opciones)
        self._final = '\n' * con_lineas

    def decir(self, *textos):
        for texto in textos:
            assert len(texto) <= self.TOPE
            self.ida_y_vuelta((texto + self._final).encode())

    def ida_y_vuelta(self, datos):
        self.enviar(datos)
        vuelta = self.justos(len(datos))
        assert vuelta == datos
        self.recibidos.append((self.nick, vuelta.decode('utf-8', 'replace').removesuffix(self._final)))

    def justos(self, cuantos):
        """Los `cuantos` bytes siguientes."""
        datos = bytearray()
        while len(datos) < cuantos:
            datos += self._recibir(cuantos - len(datos))
            assert not self._terminado, f'el servidor cerró tras {bytes(datos[-50:])!r}'
        return bytes(datos)

    def _escuchar(self):
        datos = self._recibir(self._tope)
        if datos:
            self.recibidos.append((self.nick, datos.decode('utf-8', 'replace')))

    def irse(self):
        self.decir('desconectar')


DE_LA_SALA = (A, B, C, D)
