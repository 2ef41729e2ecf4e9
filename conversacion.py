"""La conversación con cada cliente: lo que hace su hilo, desde que llega hasta que se va.

    socket ──▶ Lector ──▶ líneas ──▶ presentar (quién es) ──▶ conversar (qué dice) ──▶ Sala

Cada conexión tiene un hilo `manejar_cliente`, el único que lee de ella. Nunca escribe: contesta dejando entradas en la
lista de la sala, como todo lo demás. Por eso puede esperar cuanto haga falta (al nick, a la clave, a su ritmo) sin que
nadie más lo note.
"""

import collections
import errno
import hmac
import selectors
import socket
import time

import protocolo
import sesion
from config import TAM_LECTURA
from protocolo import aviso
from red import SIN_ESPERA, apagar
from sala import Adios, Cliente


# ── Los que leen ─────────────────────────────────────────────────────────────────────────────────────────────────

def manejar_cliente(conexion, sala):
    """El hilo de una conexión, y el único que lee de su socket. Acaba cuando el cliente se va, se corta, o vuelve por
    otra conexión; el servidor, al cerrar, la corta en sentido de lectura."""
    cliente, despedida = Cliente(conexion), None
    try:
        lector = Lector(cliente, sala.ajustes.espera_marco)
        cliente = presentar(cliente, conexion, sala, lector)
        if cliente.terminado:
            raise Adios     # ya se había ido: vuelve solo a ver su despedida
        while (lineas := lector.leer()) is not None:
            comprobar_relevo(cliente, conexion)
            conversar(cliente, conexion, sala, lineas)
    except Adios as adios:
        despedida = str(adios)
    except (OSError, EOFError, ValueError):
        pass    # un corte (RST, keepalive) es un final como otro; ValueError: `select` con el socket ya cerrado
    finally:
        sala.dejar(cliente, conexion, despedida)


class Lector:
    """Las líneas que llegan por la conexión de `cliente`, sea cual sea su marco, que apunta en él. Es de un solo hilo."""

    def __init__(self, cliente, espera_marco):
        self._cliente, self._socket = cliente, cliente.lectora.socket
        self._espera_marco = espera_marco       # segundos
        self._lecturas, self._primeros = [], bytearray()    # lo leído sin saber aún qué marco es, y lo mismo junto
        self._limite_marco = None
        self._marco = None
        self._leidas = collections.deque()      # líneas que han llegado y nadie ha pedido
        self._acabada = False                   # no llegará nada más
        self.hay_sesion = False

    def leer(self):
        """Las líneas que haya, o las de la próxima lectura que complete alguna. `None`: no hay más."""
        while not self._leidas:
            if self._acabada:
                return None
            self._recibir()
        lineas, self._leidas = self._leidas, collections.deque()
        return lineas

    def linea(self, limite):
        """La línea siguiente. `EOFError`: no hay más; `TimeoutError`: en el instante `limite` no ha llegado."""
        while not self._leidas:
            if self._acabada:
                raise EOFError
            self._comprobar_marco()
            plazo = limite if self._limite_marco is None else min(limite, self._limite_marco)
            if hay_datos(self._socket, max(0, plazo - time.monotonic())):
                self._recibir()
            elif plazo is limite:
                raise TimeoutError
            else:
                self._reconocer(silencio=True)
        return self._leidas.popleft()

    def devolver(self, linea):
        """Deja `linea` para la próxima lectura, delante de las demás."""
        self._leidas.appendleft(linea)

    def _comprobar_marco(self):
        if self._marco is not None and self._marco.rebosa:
            raise Adios(f'{self._marco.REGLA} Adiós.')

    def _recibir(self):
        self._comprobar_marco()
        datos = recibir(self._socket)
        if self._marco is not None:
            self._leidas.extend(self._marco.recibir(datos))
        else:
            if not self._lecturas:
                self._limite_marco = time.monotonic() + self._espera_marco
            self._lecturas.append(datos)
            self._primeros += datos
            self._reconocer(silencio=False)
        if not datos:
            self._acabar()

    def _reconocer(self, silencio):
        marco = protocolo.reconocer(self._primeros, silencio)
        if marco is not None:
            self._enmarcar(marco)

    def _enmarcar(self, marco):
        self._cliente.marco, self._marco, self._limite_marco = marco, marco(), None
        for datos in self._lecturas:
            self._leidas.extend(self._marco.recibir(datos))
        self._lecturas, self._primeros = [], bytearray()

    def _acabar(self):
        self._acabada = True
        if self._marco is None:
            self._enmarcar(protocolo.Lineas)
        if not self.hay_sesion:     # en una sesión, lo que un corte dejó a medias se volverá a enviar entero
            self._leidas.extend(self._marco.terminar())


def recibir(socket):
    """Espera hasta que haya algo que leer. `b''`: el otro lado terminó."""
    if not SIN_ESPERA:
        hay_datos(socket, None)
    return socket.recv(TAM_LECTURA)


def hay_datos(socket, segundos):
    """Espera a lo sumo `segundos` (`None`: sin límite) a que haya algo que leer, o el final."""
    with getattr(selectors, 'PollSelector', selectors.SelectSelector)() as selector:
        selector.register(socket, selectors.EVENT_READ)
        return bool(selector.select(segundos))


def presentar(cliente, conexion, sala, lector):
    """Lee hasta saber quién es y lo mete en la sala. Devuelve el cliente, que en una sesión retomada es el que ya había.

    Lo que se diga junto al nick queda en `lector`. `EOFError`: se fue sin presentarse.
    """
    ajustes = sala.ajustes
    limite = time.monotonic() + ajustes.plazo_nick
    for intento in range(ajustes.intentos_nick):
        if intento or not hay_datos(conexion.socket, ajustes.espera_pregunta):
            sala.preguntar(cliente, protocolo.NICK)
        try:
            linea = lector.linea(limite)
            if sesion.pide_sesion(linea) and not cliente.ficha:
                lector.hay_sesion = True
                retomado = abrir_sesion(cliente, conexion, sala, linea)
                if retomado is not None:
                    return retomado
                linea = lector.linea(limite)
        except TimeoutError:
            raise Adios(f'Han pasado {ajustes.plazo_nick:g} segundos sin que digas tu nick. Adiós.') from None
        nick, texto = protocolo.presentacion(linea)
        if protocolo.es_salida(nick) or protocolo.es_salida(texto):
            raise Adios('Hasta luego.')
        if protocolo.arreglar_nick(nick):
            if ajustes.clave:
                pedir_clave(cliente, conexion, sala, lector)
            sala.entrar(cliente, nick)
            if texto:
                lector.devolver(texto)
            return cliente
    raise Adios(f'Sin nick no se puede entrar: {protocolo.REGLA_NICK}. Adiós.')


def pedir_clave(cliente, conexion, sala, lector):
    """Pide la clave hasta que la acierte; si no, `Adios`. Hasta entonces no sabe nada de la sala, ni su nick."""
    ajustes = sala.ajustes
    limite = time.monotonic() + ajustes.plazo_clave
    clave = protocolo.limpiar(ajustes.clave).strip().encode('utf-8', 'replace')
    for _ in range(ajustes.intentos_clave):
        sala.preguntar(cliente, protocolo.CLAVE)
        try:
            linea = lector.linea(limite)
        except TimeoutError:
            raise Adios(f'Han pasado {ajustes.plazo_clave:g} segundos sin la clave. Adiós.') from None
        respuestas = linea, protocolo.presentacion(linea)[1]    # hay clientes que ponen su prefijo a todo
        if any([hmac.compare_digest(texto.strip().encode('utf-8', 'replace'), clave) for texto in respuestas]):
            return      # la comparación tarda lo mismo acierte cuanto acierte
        if any(map(protocolo.es_salida, respuestas)):
            raise Adios('Hasta luego.')
        conexion.fin.wait(ajustes.pausa_clave)
        sala.decir(cliente, aviso('Clave incorrecta.'))
    raise Adios(protocolo.SIN_CLAVE)


def abrir_sesion(cliente, conexion, sala, linea):
    """Atiende `#SESION`. Si la sesión ya existía, devuelve su cliente, que sigue por esta conexión; si no, `None`."""
    peticion = sesion.leer_peticion(linea)
    if peticion is None:
        raise Adios('Esa sesión no se entiende: #SESION, 32 cifras hexadecimales y un número. Adiós.')
    cliente.ficha, visto = peticion
    reclamada = sala.reclamar(cliente.ficha, conexion)
    if reclamada is None:
        sala.decir(cliente, sesion.respuesta(0, retomada=False))
        cliente.marco = protocolo.Numeradas
        return None
    retomado, anterior = reclamada
    anterior.fin.set()
    apagar(anterior.socket, socket.SHUT_RD)
    anterior.hilo.join()
    sala.retomar(retomado, conexion, visto)
    return retomado


def comprobar_relevo(cliente, conexion):
    """Si el cliente ya sigue por otra conexión, por esta no se acepta nada más: lo que falte lo enviará por la otra."""
    if cliente.lectora is not conexion:
        raise ConnectionAbortedError


def conversar(cliente, conexion, sala, lineas):
    """Atiende unas líneas de quien ya está dentro, en su orden y a su ritmo. Los mensajes seguidos van juntos."""
    mensajes = []
    for linea in lineas:
        clase, texto = protocolo.interpretar(linea, cliente.prefijos)
        if clase == protocolo.MENSAJE:
            mensajes.append(texto)
            continue
        publicar(cliente, conexion, sala, mensajes)
        mensajes = []
        frenar(cliente, conexion, sala, 1)
        if clase == protocolo.PULSO:
            sala.acusar(cliente)
            continue
        if clase == protocolo.SALIDA:
            cliente.recibidos += 1
            raise Adios(protocolo.despedida(cliente.nick))
        if clase == protocolo.LARGO:
            sala.decir(cliente, aviso(protocolo.aviso_largo(texto)))
        elif clase == protocolo.COMANDO:
            obedecer(cliente, sala, texto)
        cliente.recibidos += 1
    publicar(cliente, conexion, sala, mensajes)


def publicar(cliente, conexion, sala, mensajes):
    while mensajes:
        cuantos = frenar(cliente, conexion, sala, len(mensajes))
        sala.publicar(cliente, mensajes[:cuantos])
        cliente.recibidos += cuantos
        if sala.ajustes.mostrar:
            sala.anotar('\n'.join([protocolo.prefijo(cliente.nick) + texto for texto in mensajes[:cuantos]]))
        mensajes = mensajes[cuantos:]


def frenar(cliente, conexion, sala, cuantas):
    """Espera a que el ritmo del cliente le deje decir algo. Devuelve cuántas de sus `cuantas` líneas puede decir ya."""
    if cliente.freno is None:
        cliente.freno = Freno(sala.ajustes)
    freno = cliente.freno
    while falta := freno.falta():
        if conexion.fin.wait(min(falta, sala.ajustes.latido)):
            break
        comprobar_corte(conexion)
        if cliente.ficha and freno.toca_latir():
            sala.acusar(cliente)    # si no, callaría tanto que parecería muerta
    comprobar_relevo(cliente, conexion)
    return freno.gastar(cuantas)


def comprobar_corte(conexion):
    """Tras un RST, lo leído y aún no dicho se da por perdido, como hace TCP con lo no leído: a su ritmo serían horas de
    mensajes de alguien que ya no está."""
    if conexion.rota or conexion.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET:
        raise ConnectionResetError


class Freno:
    """Cubo de fichas: `ritmo` por segundo sobre una `rafaga`. Quien se pasa espera en su propio hilo, deja de leer, y
    TCP frena al otro lado: no se descarta nada y nadie más lo nota. Es de un solo hilo."""

    def __init__(self, ajustes):
        self._ritmo, self._rafaga, self._latido = ajustes.ritmo, ajustes.rafaga, ajustes.latido
        self._fichas, self._hora = self._rafaga, time.monotonic()
        self._proximo_latido = self._hora + self._latido

    def falta(self):
        """Segundos hasta que se pueda decir otra línea; 0 si se puede ya."""
        if not self._ritmo:
            return 0
        self._reponer()
        return max(0, 1 - self._fichas) / self._ritmo

    def gastar(self, cuantas):
        """Cuántas de las `cuantas` líneas se pueden decir ya: una, al menos."""
        if not self._ritmo:
            return cuantas
        permitidas = max(1, min(cuantas, int(self._fichas)))
        self._fichas -= permitidas
        return permitidas

    def toca_latir(self):
        """Si se va frenado, y hace ya `latido` segundos de la última vez que tocó."""
        toca = self._hora >= self._proximo_latido
        if toca:
            self._proximo_latido = self._hora + self._latido
        return toca

    def _reponer(self):
        ahora = time.monotonic()
        self._fichas = min(self._rafaga, self._fichas + (ahora - self._hora) * self._ritmo)
        self._hora = ahora


# ── Comandos ─────────────────────────────────────────────────────────────────────────────────────────────────────

def obedecer(cliente, sala, texto):
    """Ejecuta la orden `texto`, que empieza por `/`."""
    nombre, _, argumento = texto.partition(' ')
    nombre = nombre.casefold()
    accion, (forma, _) = ACCIONES.get(nombre), protocolo.COMANDOS.get(nombre, ('', ''))
    if nombre in protocolo.SALIDAS:
        sala.decir(cliente, aviso(f'Para irte, escribe {nombre} y nada más.'))
    elif accion is None:
        sala.decir(cliente, aviso(f'Comando desconocido: {nombre}. /ayuda dice los que hay; '
                                  f'para decir algo que empieza por barra, escribe otra delante: /{nombre}'))
    elif forma and not argumento.strip():
        sala.decir(cliente, aviso(f'Se usa así: {nombre} {forma}'))
    else:
        accion(cliente, sala, argumento.strip())


def _ayuda(cliente, sala, _):
    for nombre, (forma, ayuda) in protocolo.COMANDOS.items():
        sala.decir(cliente, aviso(f'{nombre} {forma}'.strip() + f': {ayuda}'))


def _usuarios(cliente, sala, _):
    sala.decir(cliente, aviso(sala.describir_presentes()))


def _nick(cliente, sala, pedido):
    if not sala.cambiar_nick(cliente, pedido):
        sala.decir(cliente, aviso(f'Ese nick no vale: {protocolo.REGLA_NICK}.'))


def _privado(cliente, sala, argumento):
    nick, _, texto = argumento.partition(' ')
    destino = sala.buscar(nick)
    if protocolo.vacio(texto):
        sala.decir(cliente, aviso('Se usa así: /privado NICK TEXTO'))
    elif destino is None:
        sala.decir(cliente, aviso(f'No hay nadie que se llame {nick}. /usuarios dice quién está.'))
    else:
        sala.decir(destino, protocolo.privado(cliente.nick, texto.strip()))
        espera = ' Está reconectando: lo recibirá si vuelve.' * sala.se_ha_cortado(destino)
        sala.decir(cliente, aviso(f'Enviado a {destino.nick} en privado.{espera}'))


# /salir no está: termina la conversación, y eso lo hace `conversar`.
ACCIONES = {'/ayuda': _ayuda, '/usuarios': _usuarios, '/nick': _nick, '/privado': _privado}
