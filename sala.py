"""La sala: quién está, qué se ha dicho, y el hilo que lo reparte.

    manejar_cliente ──▶ [lista + cerrojo] ──▶ Repartidor ──▶ todos menos quien lo dijo
    (uno por cliente)         Sala              (uno)

Muchos hilos añaden a la lista de la `Sala`; uno solo, el `Repartidor`, la toma entera cada vez, la junta en una tanda
y hace un envío por cliente, sin esperar a nadie: al que no da abasto le guarda un cursor en las últimas tandas. Quien
acaba de entrar, el rezagado y el que se va son el mismo caso. Con más carga las tandas son mayores, no más lentas.
"""

import collections
import itertools
import selectors
import socket
import threading
import time

import protocolo
from config import TAM_LECTURA, AjustesServidor
from protocolo import ENTRA, SALE, Entrada, Tanda, aviso, codificar

# Los sockets bloquean al leer y no al escribir. Windows no tiene MSG_DONTWAIT: allí no bloquean nunca, y se espera
# con un selector antes de leer.
SIN_ESPERA = getattr(socket, 'MSG_DONTWAIT', 0)


# ── La sala: quién está y qué se ha dicho ────────────────────────────────────────────────────────────────────────

class Cliente:
    """Una conexión, de principio a fin. El nick es de su hilo lector; el estado de entrega, del `Repartidor`."""

    __slots__ = ('conexion', 'direccion', 'hilo', 'nick', 'prefijos',
                 'dentro', 'roto', 'cursor', 'desplazamiento', 'linea', 'resto', 'ultima')

    def __init__(self, conexion=None, direccion=''):
        self.conexion, self.direccion = conexion, direccion
        self.hilo = None
        self.nick = ''
        self.prefijos = ()          # los que se quitan de sus líneas: el nick que pidió y el que tiene
        self.dentro = False         # si lo que se dice en la sala es también para él
        self.roto = False           # si su socket ya no admite envíos
        self.cursor = None          # tanda por la que va; None: al día
        self.desplazamiento = 0     # bytes que ya ha visto de esa tanda, siempre hasta un fin de línea
        self.linea = 0              # cuántas líneas de la sala ha dejado atrás
        self.resto = b''            # lo que falta de la línea en la que se cortó su último envío
        self.ultima = None          # tanda con su despedida: tras ella se cierra


class Adios(Exception):
    """Termina la conversación con un cliente; su texto es lo último que se le dice."""


class Sala:
    """El registro compartido: quién está, y la lista de lo dicho que el `Repartidor` aún no ha tomado.

    No sabe de sockets. Bajo su único cerrojo solo se hace trabajo O(1) y sin E/S.
    """

    def __init__(self, ajustes=AjustesServidor()):
        self.ajustes = ajustes
        self.despertar = lambda: None               # la pone el Repartidor: lo saca de su espera
        self.cerrada = threading.Event()
        self._cerrojo = threading.Lock()            # guarda todo lo que sigue
        self._hueco = threading.Condition(self._cerrojo)    # los lectores esperan aquí a que la lista se vacíe
        self._bastante = threading.Condition(self._cerrojo) # el Repartidor espera aquí, en su descanso, a que se llene
        self._conectados = {}                       # todos, con o sin nick, por orden de llegada
        self._presentes = {}                        # clave del nick → cliente
        self._lista = []                            # entradas que esperan al Repartidor
        self._pendiente = 0                         # bytes de la lista
        self._historial = collections.deque()       # últimas líneas de mensajes, para quien entre
        self._espera_repartidor = False
        self.personas = self.mensajes = 0           # totales

    # Llegadas y salidas

    def conectar(self, cliente):
        """Apunta una conexión nueva. Falso si la sala está llena o cerrada."""
        with self._cerrojo:
            if self.cerrada.is_set() or len(self._conectados) >= self.ajustes.max_clientes:
                return False
            self._conectados[cliente] = None
            return True

    def olvidar(self, cliente):
        """La conexión ya está cerrada."""
        with self._cerrojo:
            self._conectados.pop(cliente, None)

    def conectados(self):
        """Las conexiones que hay ahora, en una lista nueva."""
        return list(self._conectados)   # en C y sin soltar el intérprete: no necesita el cerrojo, que no esperaría O(n)

    def entrar(self, cliente, pedido):
        """Da a `cliente` el nick que sale de `pedido` y lo mete en la sala. Devuelve cuántos hay, o 0 si no vale."""
        nick = protocolo.arreglar_nick(pedido)
        if not nick:
            return 0
        with self._cerrojo:
            if self.cerrada.is_set():
                raise Adios
            vecinos = self._nombrar_presentes(20)
            avisos = self._poner_nick(cliente, nick, pedido)
            if self._historial:
                avisos = [aviso('Lo último que se dijo:'), *self._historial, *avisos]
            avisos.append(aviso(f'Hola, {cliente.nick}. {vecinos} /ayuda dice qué puedes hacer; '
                                          '/salir, para irte.'))
            self.personas += 1
            self._anadir(Entrada(codificar(protocolo.aviso_entra(cliente.nick)), autor=cliente))
            self._anadir(Entrada(codificar('\n'.join(avisos)), len(avisos), destino=cliente, paso=ENTRA))
            presentes = len(self._presentes)
        self._avisar_repartidor()
        return presentes

    def despedir(self, cliente, despedida=''):
        """Saca a `cliente`, que se cerrará cuando haya recibido todo hasta aquí. Devuelve cuántos quedan.

        Es lo último que hace su hilo: después nadie más lee de su socket.
        """
        with self._cerrojo:
            if self._presentes.pop(protocolo.clave_nick(cliente.nick), None):
                self._anadir(Entrada(codificar(protocolo.aviso_sale(cliente.nick)), autor=cliente))
            datos = codificar(aviso(despedida)) if despedida else b''
            self._anadir(Entrada(datos, bool(datos), destino=cliente, paso=SALE))
            presentes = len(self._presentes)
        self._avisar_repartidor()
        return presentes

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
        return True

    def _poner_nick(self, cliente, nick, pedido):
        cliente.nick = protocolo.nick_libre(nick, self._presentes.__contains__)
        cliente.prefijos = (protocolo.prefijo(pedido.strip()), protocolo.prefijo(nick), protocolo.prefijo(cliente.nick))
        self._presentes[protocolo.clave_nick(cliente.nick)] = cliente
        avisos = [protocolo.aviso_de_nick(cliente.nick)]
        if cliente.nick != nick:
            avisos.insert(0, aviso(f'Ya hay alguien que se llama {nick}.'))
        if nick != pedido.strip():
            avisos.insert(0, aviso(f'Un nick tiene {protocolo.REGLA_NICK}.'))
        return avisos

    # Lo que se dice

    def publicar(self, cliente, textos):
        """Añade mensajes seguidos de `cliente`. Si el Repartidor va atrasado, espera: nada se pierde."""
        prefijo = protocolo.prefijo(cliente.nick)
        lineas = [prefijo + texto for texto in textos]
        entrada = Entrada(codificar('\n'.join(lineas)), len(lineas), autor=cliente)
        with self._hueco:
            self._hueco.wait_for(self._hay_hueco)
            self._anadir(entrada)
            self.mensajes += len(lineas)
            self._historial.extend(lineas[-self.ajustes.historial:] if self.ajustes.historial else ())
            while len(self._historial) > self.ajustes.historial:
                self._historial.popleft()
        self._avisar_repartidor()

    def decir(self, cliente, linea):
        """Añade una línea que solo recibe `cliente`."""
        with self._hueco:
            self._hueco.wait_for(self._hay_hueco)
            self._anadir(Entrada(codificar(linea), destino=cliente))
        self._avisar_repartidor()

    def preguntar_nick(self, cliente):
        """La única cosa que se dice sin fin de línea: es para una persona con `nc`."""
        with self._cerrojo:
            self._anadir(Entrada(protocolo.PREGUNTA_NICK.encode(), 0, destino=cliente))
        self._avisar_repartidor()

    def buscar(self, nick):
        """El cliente que tiene ese nick, o `None`."""
        with self._cerrojo:
            return self._presentes.get(protocolo.clave_nick(nick))

    def describir_presentes(self, cuantos=200):
        """Una frase con quién está: los `cuantos` primeros."""
        with self._cerrojo:
            return self._nombrar_presentes(cuantos)

    def _nombrar_presentes(self, cuantos):
        if not self._presentes:
            return 'No hay nadie más.'
        nicks = [cliente.nick for cliente in itertools.islice(self._presentes.values(), cuantos)]
        otros = len(self._presentes) - len(nicks)
        return f'{"Está" if len(self._presentes) == 1 else "Están"} {", ".join(nicks)}{f" y {otros} más" if otros else ""}.'

    # La lista

    def _anadir(self, entrada):
        self._lista.append(entrada)
        self._pendiente += len(entrada.datos)
        if self._hay_bastante():
            self._bastante.notify()

    def _hay_hueco(self):
        return self._pendiente <= self.ajustes.max_pendiente or self.cerrada.is_set()

    def _hay_bastante(self):
        return self._pendiente > self.ajustes.max_pendiente // 2 or self.cerrada.is_set()

    def _avisar_repartidor(self):
        if self._espera_repartidor:     # leído sin cerrojo: lo peor es un toque de más
            self._espera_repartidor = False
            self.despertar()

    def esperar_mas(self, plazo):
        """Para el Repartidor: espera a que la lista tenga bastante, o a lo sumo `plazo` segundos."""
        with self._bastante:
            self._bastante.wait_for(self._hay_bastante, plazo)

    def tomar(self):
        """Para el Repartidor: la lista entera, que queda vacía. Si ya lo estaba, la próxima entrada lo despertará."""
        with self._hueco:
            lista, self._lista, self._pendiente = self._lista, [], 0
            self._espera_repartidor = not lista
            self._hueco.notify_all()
        return lista

    def cerrar(self, despedida):
        """No entra nadie más; se avisa a todos y nadie espera ya a nada."""
        with self._hueco:
            self.cerrada.set()
            self._anadir(Entrada(codificar(aviso(despedida))))
            self._hueco.notify_all()
        self._avisar_repartidor()


# ── El que escribe ───────────────────────────────────────────────────────────────────────────────────────────────

class Despertador:
    """Saca a un hilo de la espera de su selector. Un par de sockets: lo único que vale también en Windows."""

    def __init__(self):
        self.lectura, self.escritura = socket.socketpair()
        self.lectura.setblocking(False)
        self.escritura.setblocking(False)

    def tocar(self):
        try:
            self.escritura.send(b'!')
        except OSError:
            pass    # ya tiene toques de sobra, o su hilo ha terminado

    def atender(self):
        try:
            self.lectura.recv(4096)
        except BlockingIOError:
            pass

    def cerrar(self):
        self.lectura.close()
        self.escritura.close()


class Repartidor:
    """El único hilo que envía por los sockets de los clientes, y el único que los cierra.

    Guarda las últimas tandas: un rezagado es un cliente con un cursor en ellas, que el selector vigila hasta que
    admite más. Nada de lo que hay aquí lo toca otro hilo, salvo `terminar`. Lo acaba el servidor al cerrar.
    """

    TROZO = 256 * 1024      # bytes de cada envío a un rezagado
    # Con 10.000 clientes un turno pasa de 50 ms, y quienes llegan apenas consiguen el intérprete mientras dura. Si hay
    # mucho que decir se descansa tras cada turno: así entran todos en unos 20 s, y sin descanso tardaban 47.
    SALA_ENORME = 2000      # clientes
    DESCANSO = 0.2          # segundos, o menos si se junta mucho que repartir

    def __init__(self, sala):
        self.sala = sala
        self.entregas = 0                       # líneas entregadas a alguien
        self._despertador = Despertador()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._despertador.lectura, selectors.EVENT_READ)
        self._al_dia = {}                       # clientes sin nada pendiente
        self._plazos = {}                       # cliente que se va → instante en que se cierra sin más
        self._tandas = collections.deque()
        self._memoria = 0                       # bytes de las tandas guardadas
        self._siguiente = 0                     # número de la próxima tanda
        self._linea = 0                         # líneas comunes repartidas
        self._fin = None                        # instante en que hay que haber terminado
        sala.despertar = self._despertador.tocar
        # daemon: si algo quedara atascado al cerrar, no debe impedir que el proceso termine.
        self._hilo = threading.Thread(target=self._bucle, name='repartidor', daemon=True)
        self._hilo.start()

    def terminar(self, fin):
        """Acaba cuando no quede nadie, o en el instante `fin` de `time.monotonic`; cierra todos los sockets."""
        self._fin = fin
        self._despertador.tocar()
        self._hilo.join()

    def _bucle(self):
        while not self._terminado():
            entradas = self.sala.tomar()
            eventos = self._selector.select(0 if entradas else self._espera())
            if entradas:
                self._repartir(entradas)
            for clave, _ in eventos:
                self._atender(clave)
            self._vencer_plazos()
            if len(self._al_dia) > self.SALA_ENORME and len(entradas) > 10:
                self.sala.esperar_mas(self.DESCANSO)
        for cliente in {*self.sala.conectados(), *self._plazos}:
            self._cerrar(cliente)
        self._selector.close()
        self._despertador.cerrar()

    def _terminado(self):
        if self._fin is None:
            return False
        return time.monotonic() >= self._fin or not (self._plazos or self.sala.conectados())

    def _espera(self):
        plazos = list(self._plazos.values())
        if self._fin is not None:
            plazos.append(self._fin)
        return max(0, min(plazos) - time.monotonic()) if plazos else None

    # Un turno: una tanda, un envío por cliente

    def _repartir(self, entradas):
        tanda = Tanda(entradas, self._siguiente, self._linea)
        self._guardar(tanda)
        for cliente in tanda.vistas:
            if cliente.cursor is None and cliente.ultima is None and not cliente.roto:
                self._al_dia[cliente] = None
        for cliente in list(self._al_dia):
            datos = tanda.para(cliente)
            if datos:
                self._enviar(cliente, tanda, datos)
        for cliente, vista in tanda.vistas.items():
            cliente.dentro = vista.dentro
            if vista.paso == SALE:
                self._marchar(cliente, tanda)
            elif not vista.dentro:
                self._al_dia.pop(cliente, None)

    def _guardar(self, tanda):
        self._tandas.append(tanda)
        self._siguiente += 1
        self._linea += tanda.lineas
        self._memoria += self._peso(tanda)
        while self._memoria > self.sala.ajustes.max_memoria and len(self._tandas) > 1:
            vieja = self._tandas.popleft()
            self._memoria -= self._peso(vieja)
            for cliente, vista in vieja.vistas.items():
                if cliente.cursor is not None and cliente.cursor <= vieja.numero:
                    cliente.linea += vieja.lineas - vista.lineas    # lo suyo no es una pérdida

    @staticmethod
    def _peso(tanda):
        return len(tanda.datos) + 500 * (1 + len(tanda.vistas))     # los objetos pesan tanto como el texto

    def _enviar(self, cliente, tanda, datos):
        try:
            enviados = cliente.conexion.send(datos, SIN_ESPERA)
        except BlockingIOError:
            enviados = 0
        except OSError:
            self._cortar(cliente)
            return
        if enviados == len(datos):
            self.entregas += tanda.lineas_para(cliente)
            return
        del self._al_dia[cliente]
        cliente.cursor, cliente.desplazamiento, cliente.linea = tanda.numero, 0, tanda.linea
        self._avanzar(cliente, [datos], enviados)
        self._selector.register(cliente.conexion, selectors.EVENT_WRITE, cliente)

    # Rezagados

    def _alimentar(self, cliente):
        """Envía a un rezagado lo que admita de lo que le falta."""
        fin = self._siguiente if cliente.ultima is None else cliente.ultima + 1
        while cliente.resto or cliente.cursor < fin:
            self._saltar_lo_olvidado(cliente)
            trozos = self._trozos_para(cliente, fin)
            datos = b''.join([cliente.resto, *trozos])
            try:
                enviados = cliente.conexion.send(datos, SIN_ESPERA)
            except BlockingIOError:
                return
            except OSError:
                self._cortar(cliente)
                return
            if enviados and cliente in self._plazos:    # mientras reciba, no se le corta
                self._plazos[cliente] = time.monotonic() + self.sala.ajustes.plazo_cierre
            sobra = enviados - len(cliente.resto)
            cliente.resto = cliente.resto[enviados:]
            if sobra >= 0:      # también 0: las tandas en que todo era suyo no tienen nada que enviar
                self._avanzar(cliente, trozos, sobra)
            if enviados < len(datos):
                return
        self._selector.unregister(cliente.conexion)
        cliente.cursor = None
        if cliente.ultima is None:
            self._al_dia[cliente] = None
        else:
            self._despedir(cliente)

    def _trozos_para(self, cliente, fin):
        """Lo que sigue para `cliente` de cada tanda desde su cursor, hasta `TROZO` bytes o poco más."""
        trozos, total, numero = [], 0, cliente.cursor
        while numero < fin and total < self.TROZO:
            trozo = self._tandas[numero - self._tandas[0].numero].para(cliente)
            trozos.append(trozo if trozos else trozo[cliente.desplazamiento:])
            total += len(trozos[-1])
            numero += 1
        return trozos

    def _avanzar(self, cliente, trozos, enviados):
        """Mueve el cursor de `cliente` sobre los `enviados` bytes. El final de una línea cortada queda en `resto`."""
        for trozo in trozos:
            if enviados < len(trozo):
                corte = trozo.find(b'\n', enviados - 1) + 1 if enviados else 0
                cliente.resto = trozo[enviados:corte]
                cliente.desplazamiento += corte
                cliente.linea += trozo.count(b'\n', 0, corte)
                return
            tanda = self._tandas[cliente.cursor - self._tandas[0].numero]
            self.entregas += tanda.lineas_para(cliente)
            enviados -= len(trozo)
            cliente.cursor, cliente.desplazamiento, cliente.linea = tanda.numero + 1, 0, tanda.linea + tanda.lineas

    def _saltar_lo_olvidado(self, cliente):
        primera = self._tandas[0]
        if cliente.cursor < primera.numero:
            perdidas = primera.linea - cliente.linea
            cliente.cursor, cliente.desplazamiento, cliente.linea = primera.numero, 0, primera.linea
            if perdidas and (cliente.ultima is None or cliente.ultima >= primera.numero):   # no lo posterior a su salida
                cliente.resto += codificar(aviso(f'Te perdiste {perdidas} mensajes.'))

    # Despedidas y cortes

    def _atender(self, clave):
        cliente = clave.data
        if cliente is None:
            self._despertador.atender()
        elif cliente.cursor is not None:
            self._alimentar(cliente)
        elif cliente in self._plazos:
            self._escurrir(cliente)

    def _marchar(self, cliente, tanda):
        """Su hilo ha terminado: cuando haya recibido hasta esta tanda, se cierra."""
        cliente.ultima = tanda.numero
        self._al_dia.pop(cliente, None)
        self._plazos[cliente] = time.monotonic() + self.sala.ajustes.plazo_cierre
        if cliente.roto:
            self._cerrar(cliente)
        elif cliente.cursor is None:
            self._despedir(cliente)

    def _despedir(self, cliente):
        """Ya lo tiene todo. Se cierra en un sentido y se espera al otro: si quedara algo suyo por leer, cerrar del
        todo sería un RST, que puede borrar lo último que se le envió (RFC 1122, 4.2.2.13)."""
        try:
            cliente.conexion.shutdown(socket.SHUT_WR)
        except OSError:
            self._cerrar(cliente)
            return
        self._selector.register(cliente.conexion, selectors.EVENT_READ, cliente)

    def _escurrir(self, cliente):
        try:
            queda = cliente.conexion.recv(TAM_LECTURA, SIN_ESPERA)
        except BlockingIOError:
            return
        except OSError:
            queda = b''
        if not queda:
            self._cerrar(cliente)

    def _cortar(self, cliente):
        """Su socket ya no vale. Se despierta a su hilo, que lo despedirá; solo entonces se puede cerrar: antes, el
        número de su descriptor podría pasar a otro cliente mientras su hilo aún lee."""
        self._al_dia.pop(cliente, None)
        self._dar_por_roto(cliente)
        apagar(cliente.conexion, socket.SHUT_RDWR)
        if cliente.ultima is not None:
            self._cerrar(cliente)

    def _cerrar(self, cliente):
        self._dar_por_roto(cliente)
        self._plazos.pop(cliente, None)
        cliente.conexion.close()
        self.sala.olvidar(cliente)

    def _dar_por_roto(self, cliente):
        cliente.roto, cliente.cursor = True, None
        if cliente.conexion.fileno() >= 0 and cliente.conexion in self._selector.get_map():
            self._selector.unregister(cliente.conexion)

    def _vencer_plazos(self):
        if self._plazos:
            ahora = time.monotonic()
            for cliente in [cliente for cliente, plazo in self._plazos.items() if plazo <= ahora]:
                self._cerrar(cliente)


def apagar(conexion, sentido):
    """`shutdown` de un socket que el otro lado puede haber cortado ya."""
    try:
        conexion.shutdown(sentido)
    except OSError:
        pass
