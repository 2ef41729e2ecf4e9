"""La sala: quién está y qué se ha dicho. La comparten todos los hilos; un solo cerrojo la guarda.

    manejar_cliente ──▶ [lista + cerrojo] ──▶ Repartidor ──▶ todos menos quien lo dijo
    (uno por cliente)         Sala              (uno)

Muchos hilos añaden entradas a la lista; el `Repartidor` (`reparto.py`) la toma entera cada vez. Un corte no es una
salida: a quien abrió una sesión se le guarda el sitio un tiempo, y lo que se dijo mientras tanto aún más.
"""

import collections
import dataclasses
import itertools
import threading
import time
from typing import Any

import protocolo
import sesion
from config import AjustesServidor
from protocolo import Lineas, aviso, codificar


class Conexion:
    """Un socket y el hilo que lee de él. Quien escribe en él y quien lo cierra es el `Repartidor`."""

    __slots__ = ('socket', 'direccion', 'hilo', 'fin', 'rota')

    def __init__(self, socket=None, direccion=('', 0)):
        self.socket, self.direccion = socket, direccion[:2]
        self.hilo = None                # su lector
        self.fin = threading.Event()    # su lector ya no debe esperar a nada
        self.rota = False               # si el Repartidor, al enviar, ha sabido que el otro lado la cortó (RST)

    def __str__(self):
        return '{}:{}'.format(*self.direccion)


class Cliente:
    """Alguien en la sala, o a punto de entrar: una persona, aunque se corte y vuelva por otra conexión.

    Hasta `terminado`, de su hilo lector y de la sala; lo demás, del `Repartidor`.
    """

    __slots__ = ('nick', 'prefijos', 'marco', 'ficha', 'recibidos', 'freno', 'lectora', 'terminado',
                 'conexion', 'dentro', 'roto', 'cursor', 'desplazamiento', 'linea', 'resto', 'desde', 'hasta', 'ultima',
                 'lineas')

    def __init__(self, conexion=None):
        self.nick = ''
        self.prefijos = ()          # los que se quitan de sus líneas: el nick que pidió y el que tiene
        self.marco = Lineas         # cómo se le escribe
        self.ficha = ''             # de su sesión, si la abrió
        self.recibidos = 0          # cuántas líneas suyas se han aceptado
        self.freno = None           # el de su ritmo, que no se estrena al volver
        self.lectora = conexion     # la conexión de la que se le lee; la guarda el cerrojo de la sala
        self.terminado = False      # si se ha ido, y no por un corte
        self.conexion = conexion    # por la que se le escribe; None: está cortado
        self.dentro = False         # si lo que se dice en la sala es también para él
        self.roto = False           # si su socket ya no admite envíos
        self.cursor = None          # tanda por la que va; None: al día
        self.desplazamiento = 0     # bytes que ya ha visto de esa tanda, siempre hasta un fin de línea
        self.linea = 0              # cuántas líneas de la sala ha dejado atrás
        self.resto = b''            # lo que falta de la línea en la que se cortó su último envío
        self.desde = 0              # número de la última línea anterior a su entrada
        self.hasta = 0              # número de la última línea cuando se cortó
        self.ultima = None          # tanda con su despedida: tras ella se cierra
        self.lineas = 0             # cuántas líneas de la sala hubo hasta entonces


ENTRA, SALE, CORTE, VUELTA = 'entra', 'sale', 'corte', 'vuelta'


@dataclasses.dataclass(slots=True)
class Entrada:
    """Un elemento de la lista de la sala: una o varias líneas seguidas, ya codificadas."""

    datos: bytes
    lineas: int = 1
    autor: Any = None       # cliente al que no se le devuelve
    destino: Any = None     # si lo hay, solo este cliente la recibe
    paso: str = ''          # ENTRA o SALE: desde o hasta aquí `destino` ve la sala; CORTE o VUELTA: pierde o cambia de
    conexion: Any = None    # conexión, que es esta,
    visto: int = 0          # y lo que vio por la anterior llega hasta la línea de este número


class Apartados:
    """Clientes de sesiones sin conexión. Si hay que olvidar a alguno: antes a quien se fue que a quien se ha cortado."""

    def __init__(self):
        self._idos, self._cortados = {}, {}     # por antigüedad; no importa su valor

    def __len__(self):
        return len(self._idos) + len(self._cortados)

    def poner(self, cliente, se_fue):
        self.quitar(cliente)
        (self._idos if se_fue else self._cortados)[cliente] = None

    def quitar(self, cliente):
        self._idos.pop(cliente, None)
        self._cortados.pop(cliente, None)

    def prescindible(self):
        return next(iter(self._idos or self._cortados))


class Adios(Exception):
    """Termina la conversación con un cliente; su texto es lo último que se le dice."""


class Sala:
    """El registro compartido: quién está, y la lista de lo dicho que el `Repartidor` aún no ha tomado.

    No sabe de sockets. Bajo su único cerrojo solo se hace trabajo O(1) y sin E/S.
    """

    def __init__(self, ajustes=AjustesServidor()):
        self.ajustes = ajustes
        self.despertar = lambda: None               # la pone el Repartidor: lo saca de su espera
        self.anotar = lambda linea: None            # la pone el servidor: lo que se cuenta en su consola
        self.cerrada = threading.Event()
        self._cerrojo = threading.Lock()            # guarda todo lo que sigue
        self._hueco = threading.Condition(self._cerrojo)    # los lectores esperan aquí a que la lista se vacíe
        self._bastante = threading.Condition(self._cerrojo) # el Repartidor espera aquí, en su descanso, a que se llene
        self._conexiones = {}                       # todas, con o sin nick, por orden de llegada
        self._por_ip = collections.Counter()        # cuántas hay de cada dirección
        self._presentes = {}                        # clave del nick → cliente
        self._sesiones = {}                         # ficha → cliente
        self._ausentes = {}                         # cliente que se ha cortado → instante en que se le da por ido
        self._apartados = Apartados()               # esos, y los que se fueron y aún podrían volver
        self._apartados_por_ip = {}                 # los mismos, por la dirección desde la que estaban
        self._lista = []                            # entradas que esperan al Repartidor
        self._pendiente = 0                         # bytes de la lista
        self._historial = collections.deque()       # últimas líneas de mensajes, para quien entre
        self._espera_repartidor = False
        self.personas = self.mensajes = 0           # totales

    # Conexiones

    def conectar(self, conexion):
        """Apunta una conexión nueva. Si no cabe, `Adios` con el porqué."""
        direccion, por_ip = conexion.direccion[0], self.ajustes.max_por_ip
        with self._cerrojo:
            if self.cerrada.is_set() or len(self._conexiones) >= self.ajustes.max_clientes:
                raise Adios('Sala llena. Prueba dentro de un rato.')
            if por_ip and self._por_ip[direccion] >= por_ip:
                raise Adios(f'Demasiadas conexiones desde tu dirección: el límite es {por_ip}. Cierra alguna.')
            self._conexiones[conexion] = None
            self._por_ip[direccion] += 1

    def olvidar(self, conexion):
        """Esa conexión ya está cerrada."""
        direccion = conexion.direccion[0]
        with self._cerrojo:
            if self._conexiones.pop(conexion, conexion) is None:
                self._por_ip[direccion] -= 1
                if not self._por_ip[direccion]:
                    del self._por_ip[direccion]

    def conexiones(self):
        """Las que hay ahora, en una lista nueva."""
        return list(self._conexiones)   # en C y sin soltar el intérprete: no necesita el cerrojo, que no esperaría O(n)

    # Entrar y cambiar de nick

    def entrar(self, cliente, pedido):
        """Da a `cliente` el nick que sale de `pedido` y lo mete en la sala. Falso si no vale."""
        nick = protocolo.arreglar_nick(pedido)
        if not nick:
            return False
        with self._cerrojo:
            if self.cerrada.is_set() or cliente.ficha in self._sesiones:
                raise Adios     # la ficha ya ha entrado por otra conexión: por esta no hay nada que hacer
            if cliente.ficha:
                self._sesiones[cliente.ficha] = cliente
            self._presentar(cliente, nick, pedido, self._historial, ENTRA)
            presentes = len(self._presentes)
        self._avisar_repartidor()
        self.anotar(f'+ {cliente.nick} ({cliente.lectora}) entra; hay {presentes}')
        return True

    def _presentar(self, cliente, nick, pedido, historial, paso):
        vecinos = self._nombrar_presentes(20)
        avisos = self._poner_nick(cliente, nick, pedido)
        if historial:
            avisos += [aviso('Lo último que se dijo:'), *historial]
        avisos.append(aviso(f'Hola, {cliente.nick}. {vecinos} /ayuda dice qué puedes hacer; /salir, para irte.'))
        self.personas += 1
        self._anadir(Entrada(codificar(protocolo.aviso_entra(cliente.nick)), autor=cliente))
        self._anadir(Entrada(codificar('\n'.join(avisos)), len(avisos), destino=cliente, paso=paso))

    def cambiar_nick(self, cliente, pedido):
        """Cambia el nick y lo anuncia. Falso si `pedido` no deja nada."""
        nick = protocolo.arreglar_nick(pedido)
        if not nick:
            return False
        with self._cerrojo:
            anterior = cliente.nick
            del self._presentes[protocolo.clave_nick(anterior)]
            avisos = self._poner_nick(cliente, nick, pedido)
            if cliente.nick != anterior:
                self._anadir(Entrada(codificar(protocolo.aviso_cambio(anterior, cliente.nick)), autor=cliente))
            self._anadir(Entrada(codificar('\n'.join(avisos)), len(avisos), destino=cliente))
        self._avisar_repartidor()
        if cliente.nick != anterior:
            self.anotar(f'= {anterior} ({cliente.lectora}) ahora es {cliente.nick}')
        return True

    def _poner_nick(self, cliente, nick, pedido):
        cliente.nick = protocolo.nick_libre(nick, self._presentes.__contains__)
        # el primero no se olvida: hay programas que lo ponen siempre, aunque su nick haya cambiado
        cliente.prefijos = (*cliente.prefijos[:1], protocolo.prefijo(pedido.strip()), protocolo.prefijo(nick),
                            protocolo.prefijo(cliente.nick))
        self._presentes[protocolo.clave_nick(cliente.nick)] = cliente
        avisos = [protocolo.aviso_de_nick(cliente.nick)]
        if cliente.nick != nick:
            avisos.insert(0, aviso(f'Ya hay alguien que se llama {nick}.'))
        if nick != pedido.strip():
            avisos.insert(0, aviso(f'Un nick tiene {protocolo.REGLA_NICK}.'))
        return avisos

    # Irse, cortarse y volver

    def dejar(self, cliente, conexion, despedida=None):
        """El lector de `conexion` termina. Sin `despedida` es un corte: si tenía una sesión, se le guarda el sitio."""
        with self._cerrojo:
            es_corte = despedida is None and self._tiene_sesion(cliente) \
                and not cliente.terminado and not self.cerrada.is_set()
            if es_corte:
                self._anadir(Entrada(b'', 0, destino=cliente, paso=CORTE, conexion=conexion))
                relevado = cliente.lectora is not conexion
                if not relevado:
                    self._ausentes[cliente] = time.monotonic() + self.ajustes.plazo_ausencia
                    self._apartar(cliente, se_fue=False)
            else:
                estaba = self._sacar(cliente)
                self._despedir(cliente, conexion, despedida)
            presentes = len(self._presentes)
        self._avisar_repartidor()
        if es_corte and not relevado:
            self.anotar(f'~ {cliente.nick} ({conexion}) se corta; se le espera {self.ajustes.plazo_ausencia:g} s')
        elif not es_corte and estaba:
            self.anotar(f'- {cliente.nick} ({conexion}) sale; quedan {presentes}')

    def _despedir(self, cliente, conexion, despedida):
        lineas = [sesion.acuse(cliente.recibidos)] if cliente.ficha and cliente.nick else []
        lineas += [aviso(despedida)] if despedida else []
        datos = codificar('\n'.join(lineas)) if lineas else b''
        self._anadir(Entrada(datos, self._lineas(cliente, len(lineas)), destino=cliente, paso=SALE, conexion=conexion))
        if self._tiene_sesion(cliente):
            self._apartar(cliente, se_fue=True)     # por si la despedida no le llegara
        cliente.terminado = True

    def _tiene_sesion(self, cliente):
        return self._sesiones.get(cliente.ficha) is cliente

    def _sacar(self, cliente):
        """Deja libre su nick y lo anuncia. Falso si no lo tenía."""
        if not self._esta(cliente):
            return False
        del self._presentes[protocolo.clave_nick(cliente.nick)]
        self._anadir(Entrada(codificar(protocolo.aviso_sale(cliente.nick)), autor=cliente))
        return True

    def _esta(self, cliente):
        return self._presentes.get(protocolo.clave_nick(cliente.nick)) is cliente

    def reclamar(self, ficha, conexion):
        """Pone `conexion` al frente de la sesión `ficha`. Devuelve su cliente y la conexión que había, cuyo lector tiene
        que haber terminado antes de llamar a `retomar`; o `None` si no hay tal sesión."""
        with self._cerrojo:
            cliente = self._sesiones.get(ficha)
            if cliente is None:
                return None
            self._recuperar(cliente)
            anterior, cliente.lectora = cliente.lectora, conexion
        return cliente, anterior

    def retomar(self, cliente, conexion, visto):
        """`cliente` sigue por `conexion`, que ha reclamado, desde la línea número `visto`."""
        with self._cerrojo:
            if self.cerrada.is_set() or cliente.lectora is not conexion:
                raise Adios     # otra conexión la ha reclamado después
            respuesta = codificar(sesion.respuesta(cliente.recibidos, retomada=True))
            self._anadir(Entrada(respuesta, 0, destino=cliente, paso=VUELTA, conexion=conexion, visto=visto))
            if not cliente.terminado and not self._esta(cliente):   # se le dio por ido, así que entra otra vez
                self._presentar(cliente, cliente.nick, cliente.nick, (), '')
        self._avisar_repartidor()
        if not cliente.terminado:
            self.anotar(f'~ {cliente.nick} ({conexion}) vuelve')

    def vencer_ausencias(self, ahora):
        """Da por idos a quienes no han vuelto a tiempo. Devuelve cuándo vence la ausencia siguiente, o `None`."""
        while self._ausentes:
            with self._cerrojo:
                cliente, vence = next(iter(self._ausentes.items()), (None, None))
                if cliente is None or vence > ahora:
                    return vence
                del self._ausentes[cliente]
                self._apartar(cliente, se_fue=True)
                self._sacar(cliente)
                presentes = len(self._presentes)
            self.anotar(f'- {cliente.nick} ({cliente.lectora}) sale; quedan {presentes}')
        return None

    def _apartar(self, cliente, se_fue):
        """Guarda su sesión sin conexión, y olvida alguna si pasan del límite: el de su dirección, para que una no eche a
        las demás, o el de todas."""
        ajustes, suyos = self.ajustes, self._apartados_por_ip.setdefault(cliente.lectora.direccion[0], Apartados())
        de_su_ip = ajustes.max_ausentes_por_ip if ajustes.max_por_ip else ajustes.max_ausentes
        suyos.poner(cliente, se_fue)
        self._apartados.poner(cliente, se_fue)
        for apartados, maximo in ((suyos, de_su_ip), (self._apartados, ajustes.max_ausentes)):
            if len(apartados) > maximo:
                self._olvidar_sesion(apartados.prescindible())

    def _olvidar_sesion(self, cliente):
        self._recuperar(cliente)
        del self._sesiones[cliente.ficha]
        self._sacar(cliente)

    def _recuperar(self, cliente):
        """Su sesión ya no es de las que no tienen conexión."""
        direccion = cliente.lectora.direccion[0]
        suyos = self._apartados_por_ip.get(direccion)
        if suyos is not None:
            suyos.quitar(cliente)
            self._apartados.quitar(cliente)
            self._ausentes.pop(cliente, None)
            if not suyos:
                del self._apartados_por_ip[direccion]

    # Lo que se dice

    def publicar(self, cliente, textos):
        """Añade mensajes seguidos de `cliente`. Si el Repartidor va atrasado, espera: nada se pierde."""
        prefijo = protocolo.prefijo(cliente.nick)
        lineas = [prefijo + texto for texto in textos]
        entrada = Entrada(codificar('\n'.join(lineas)), len(lineas), autor=cliente)
        with self._cerrojo:
            self._esperar_hueco()
            self._anadir(entrada)
            self.mensajes += len(lineas)
            self._recordar(lineas)
        self._avisar_repartidor()

    def _recordar(self, lineas):
        maximo = self.ajustes.historial
        if maximo:
            self._historial.extend(lineas[-maximo:])
            while len(self._historial) > maximo:
                self._historial.popleft()

    def decir(self, cliente, linea):
        """Añade una línea que solo recibe `cliente`."""
        self._decir(Entrada(codificar(linea), self._lineas(cliente, 1), destino=cliente))

    @staticmethod
    def _lineas(cliente, cuantas):
        """Las de una sesión que aún no ha entrado no se numeran: si al final entra por otra conexión, no las habrá visto."""
        return 0 if cliente.ficha and not cliente.nick else cuantas

    def preguntar(self, cliente, que):
        """Le pregunta su nick o la clave; sin fin de línea si es una persona con `nc`."""
        if cliente.ficha:
            self.decir(cliente, protocolo.pregunta_a_programa(que))
        elif cliente.marco is protocolo.Cabecera:
            self.decir(cliente, aviso(protocolo.pregunta(que)))
        else:
            self._decir(Entrada(protocolo.pregunta(que).encode(), 0, destino=cliente))

    def acusar(self, cliente):
        """Le dice cuántas líneas suyas se han aceptado."""
        self.decir(cliente, sesion.acuse(cliente.recibidos))

    def _decir(self, entrada):
        with self._cerrojo:
            self._esperar_hueco()
            self._anadir(entrada)
        self._avisar_repartidor()

    def buscar(self, nick):
        """El cliente que tiene ese nick, o `None`."""
        with self._cerrojo:
            return self._presentes.get(protocolo.clave_nick(nick))

    def se_ha_cortado(self, cliente):
        """Si está en la sala, pero sin conexión."""
        return cliente in self._ausentes    # una sola consulta: no necesita el cerrojo

    def describir_presentes(self, cuantos=200):
        """Una frase con quién está: los `cuantos` primeros."""
        with self._cerrojo:
            return self._nombrar_presentes(cuantos)

    def _nombrar_presentes(self, cuantos):
        if not self._presentes:
            return 'No hay nadie más.'
        nicks = [cliente.nick + protocolo.RECONECTANDO * (cliente in self._ausentes)
                 for cliente in itertools.islice(self._presentes.values(), cuantos)]
        otros = len(self._presentes) - len(nicks)
        return f'{"Está" if len(self._presentes) == 1 else "Están"} {", ".join(nicks)}{f" y {otros} más" if otros else ""}.'

    # La lista

    def _anadir(self, entrada):
        self._lista.append(entrada)
        self._pendiente += len(entrada.datos)
        if self._hay_bastante():
            self._bastante.notify()

    def _esperar_hueco(self):
        """Para los lectores. Tras el aviso de cierre no se acepta nada: podría no quedar nadie que lo oyera."""
        while self._pendiente > self.ajustes.max_pendiente and not self.cerrada.is_set():
            self._hueco.wait()
        if self.cerrada.is_set():
            raise Adios

    def _hay_bastante(self):
        return self._pendiente > self.ajustes.max_pendiente // 2 or self.cerrada.is_set()

    def _avisar_repartidor(self):
        if self._espera_repartidor:     # leído sin cerrojo: lo peor es un toque de más
            self._espera_repartidor = False
            self.despertar()

    def esperar_mas(self, plazo):
        """Para el Repartidor: espera a que la lista tenga bastante, o a lo sumo `plazo` segundos."""
        with self._cerrojo:
            self._bastante.wait_for(self._hay_bastante, plazo)

    def tomar(self):
        """Para el Repartidor: la lista entera, que queda vacía. Si ya lo estaba, la próxima entrada lo despertará."""
        with self._cerrojo:
            lista, self._lista, self._pendiente = self._lista, [], 0
            self._espera_repartidor = not lista
            self._hueco.notify_all()
        return lista

    def cerrar(self, despedida):
        """No entra nadie más; se avisa a todos y nadie espera ya a nada."""
        with self._cerrojo:
            self.cerrada.set()
            self._anadir(Entrada(codificar(aviso(despedida))))
            self._hueco.notify_all()
        self._avisar_repartidor()
