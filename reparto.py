"""El reparto: de la lista de la sala a los sockets, con un solo hilo que escribe.

El `Repartidor` toma todo lo nuevo, lo junta en una `Tanda` y hace un envío por cliente, sin esperar a nadie. Guarda las
últimas tandas: al que no da abasto le pone un cursor en ellas. Quien acaba de entrar, el rezagado, el que vuelve tras
un corte y el que se va son el mismo caso. Con más carga las tandas son mayores, no más lentas.
"""

import collections
import selectors
import socket
import threading
import time

from config import TAM_LECTURA
from protocolo import aviso, codificar
from red import SIN_ESPERA, Despertador, apagar
from sala import CORTE, ENTRA, SALE, VUELTA
from tandas import Tanda


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
        self._numero = 1                        # el de la próxima línea, común o no
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
            vence = self.sala.vencer_ausencias(time.monotonic())
            entradas = self.sala.tomar()
            eventos = self._selector.select(0 if entradas else self._espera(vence))
            if entradas:
                self._repartir(entradas)
            for clave, _ in eventos:
                self._atender(clave)
            self._vencer_plazos()
            if len(self._al_dia) > self.SALA_ENORME and len(entradas) > 10:
                self.sala.esperar_mas(self.DESCANSO)
        for cliente in list(self._plazos):
            self._soltar(cliente)
        for conexion in (*self.sala.conexiones(), *(entrada.conexion for entrada in self.sala.tomar() if entrada.conexion)):
            conexion.socket.close()
        self._selector.close()
        self._despertador.cerrar()

    def _terminado(self):
        if self._fin is None:
            return False
        return time.monotonic() >= self._fin or not (self._plazos or self.sala.conexiones())

    def _espera(self, vence):
        plazos = [*self._plazos.values(), *(plazo for plazo in (vence, self._fin) if plazo is not None)]
        return max(0, min(plazos) - time.monotonic()) if plazos else None

    # Un turno: una tanda, un envío por cliente

    def _repartir(self, entradas):
        tanda = Tanda(entradas, self._siguiente, self._linea, self._numero)
        self._guardar(tanda)
        for cliente in tanda.vistas:
            if cliente.cursor is None and cliente.ultima is None and not cliente.roto:
                self._al_dia[cliente] = None
        antes = tanda.peso
        for cliente in list(self._al_dia):
            datos = tanda.para(cliente)
            if datos:
                self._enviar(cliente, tanda, datos)
        self._memoria += tanda.peso - antes     # pesa más si ha habido que escribirla de otra forma
        for cliente, vista in tanda.vistas.items():
            cliente.dentro = vista.dentro
            if not vista.dentro:
                self._al_dia.pop(cliente, None)
        for paso in tanda.pasos:
            self._pasar(paso, tanda)

    def _guardar(self, tanda):
        self._tandas.append(tanda)
        self._siguiente += 1
        self._linea += tanda.lineas
        self._numero = tanda.siguiente
        self._memoria += tanda.peso
        while self._memoria > self.sala.ajustes.max_memoria and len(self._tandas) > 1:
            vieja = self._tandas.popleft()
            self._memoria -= vieja.peso
            for cliente, vista in vieja.vistas.items():
                if cliente.cursor is not None and cliente.cursor <= vieja.numero and not self._acaba_antes(cliente, vieja):
                    cliente.linea += vieja.lineas - vista.lineas    # lo suyo no es una pérdida

    def _datos_para(self, cliente, tanda):
        antes = tanda.peso
        datos = tanda.para(cliente)
        self._memoria += tanda.peso - antes
        return datos

    def _pasar(self, paso, tanda):
        entrada, cliente = paso.entrada, paso.entrada.destino
        if entrada.paso == ENTRA:
            cliente.desde = paso.numero
        elif entrada.paso == SALE:
            self._marchar(cliente, tanda, paso)
        elif entrada.paso == CORTE:
            self._ausentar(cliente, tanda, paso)
        elif entrada.paso == VUELTA:
            self._volver(cliente, entrada)

    def _enviar(self, cliente, tanda, datos):
        try:
            enviados = cliente.conexion.socket.send(datos, SIN_ESPERA)
        except BlockingIOError:
            enviados = 0
        except OSError as error:
            self._cortar(cliente, error)
            return
        if enviados == len(datos):
            self.entregas += tanda.lineas_para(cliente)
            return
        del self._al_dia[cliente]
        cliente.cursor, cliente.desplazamiento, cliente.linea = tanda.numero, 0, tanda.linea
        self._avanzar(cliente, [datos], enviados)
        self._selector.register(cliente.conexion.socket, selectors.EVENT_WRITE, cliente)

    # Rezagados

    def _alimentar(self, cliente):
        """Envía a un rezagado lo que admita de lo que le falta."""
        fin = self._siguiente if cliente.ultima is None else cliente.ultima + 1
        while cliente.resto or cliente.cursor < fin:
            self._saltar_lo_olvidado(cliente)
            trozos = self._trozos_para(cliente, fin)
            datos = b''.join([cliente.resto, *trozos])
            try:
                enviados = cliente.conexion.socket.send(datos, SIN_ESPERA)
            except BlockingIOError:
                return
            except OSError as error:
                self._cortar(cliente, error)
                return
            if enviados and cliente in self._plazos:    # mientras reciba, no se le corta
                self._plazos[cliente] = time.monotonic() + self.sala.ajustes.plazo_cierre
            sobra = enviados - len(cliente.resto)
            cliente.resto = cliente.resto[enviados:]
            if sobra >= 0:      # también 0: las tandas en que todo era suyo no tienen nada que enviar
                self._avanzar(cliente, trozos, sobra)
            if enviados < len(datos):
                return
        self._selector.unregister(cliente.conexion.socket)
        cliente.cursor = None
        if cliente.ultima is None:
            self._al_dia[cliente] = None
        else:
            self._despedir(cliente)

    def _trozos_para(self, cliente, fin):
        """Lo que sigue para `cliente` de cada tanda desde su cursor, hasta `TROZO` bytes o poco más."""
        trozos, total, numero = [], 0, cliente.cursor
        while numero < fin and total < self.TROZO:
            trozo = self._datos_para(cliente, self._tandas[numero - self._tandas[0].numero])
            trozos.append(trozo if trozos else trozo[cliente.desplazamiento:])
            total += len(trozos[-1])
            numero += 1
        return trozos

    def _avanzar(self, cliente, trozos, enviados):
        """Mueve el cursor de `cliente` sobre los `enviados` bytes. El final de una línea cortada queda en `resto`."""
        for trozo in trozos:
            if enviados < len(trozo):
                corte, lineas = cliente.marco.cortar(trozo, enviados)
                cliente.resto = trozo[enviados:corte]
                cliente.desplazamiento += corte
                cliente.linea += lineas
                return
            tanda = self._tandas[cliente.cursor - self._tandas[0].numero]
            self.entregas += tanda.lineas_para(cliente)
            enviados -= len(trozo)
            cliente.cursor, cliente.desplazamiento, cliente.linea = tanda.numero + 1, 0, tanda.linea + tanda.lineas

    def _saltar_lo_olvidado(self, cliente):
        primera = self._tandas[0]
        if cliente.cursor < primera.numero:
            if self._acaba_antes(cliente, primera):     # lo posterior a su salida no lo pierde
                perdidas, ultima = cliente.lineas - cliente.linea, cliente.hasta
            else:
                perdidas, ultima = primera.linea - cliente.linea, primera.primera - 1
            cliente.cursor, cliente.desplazamiento, cliente.linea = primera.numero, 0, primera.linea
            self._contar_perdidas(cliente, perdidas, ultima)

    @staticmethod
    def _acaba_antes(cliente, tanda):
        return cliente.ultima is not None and cliente.ultima < tanda.numero

    def _contar_perdidas(self, cliente, perdidas, ultima):
        if perdidas > 0:
            linea = codificar(aviso(f'Te perdiste {perdidas} mensajes.'))
            cliente.resto += cliente.marco.codificar(linea, ultima)     # el número de la última que se pierde

    # Cortes y vueltas

    def _ausentar(self, cliente, tanda, paso):
        """Su lector ha terminado por un corte. Se le guarda el sitio, como a un rezagado sin socket."""
        self._soltar(cliente)
        cliente.cursor, cliente.linea, cliente.hasta = tanda.numero, tanda.linea + paso.vistas, paso.numero

    def _volver(self, cliente, entrada):
        """Un rezagado que ha cambiado de socket: su cursor va tras la última línea que vio por el anterior."""
        self._soltar(cliente)
        cliente.conexion, cliente.resto, cliente.roto = entrada.conexion, entrada.datos, False
        visto = min(max(entrada.visto, cliente.desde), self._numero - 1)
        primera = self._tandas[0]
        olvidado = primera.primera - 1
        if cliente.ultima is not None:      # lo posterior a su salida no lo pierde
            olvidado = min(olvidado, cliente.hasta)
        if visto >= primera.primera - 1:
            self._colocar(cliente, visto)
        else:
            perdidas = min(olvidado, cliente.hasta) - visto
            if olvidado > cliente.hasta:
                perdidas += primera.linea - cliente.linea
            cliente.cursor, cliente.desplazamiento, cliente.linea = primera.numero, 0, primera.linea
            self._contar_perdidas(cliente, perdidas, olvidado)
        if cliente.ultima is not None:      # ya se había ido: solo le falta ver el final
            self._plazos[cliente] = time.monotonic() + self.sala.ajustes.plazo_cierre
        self._selector.register(cliente.conexion.socket, selectors.EVENT_WRITE, cliente)

    def _colocar(self, cliente, visto):
        tanda = next(tanda for tanda in reversed(self._tandas) if tanda.primera <= visto + 1)
        cliente.desplazamiento, antes = cliente.marco.buscar(self._datos_para(cliente, tanda), visto)
        cliente.cursor, cliente.linea = tanda.numero, tanda.linea + antes

    # Despedidas y cortes

    def _atender(self, clave):
        cliente = clave.data
        if cliente is None:
            self._despertador.atender()
        elif cliente.conexion is None or cliente.conexion.socket is not clave.fileobj:
            pass    # se soltó en este mismo turno
        elif cliente.cursor is not None:
            self._alimentar(cliente)
        elif cliente in self._plazos:
            self._escurrir(cliente)

    def _marchar(self, cliente, tanda, paso):
        """Su hilo ha terminado: cuando haya recibido hasta esta tanda, se cierra."""
        if cliente.ultima is not None:      # se fue antes, y volvió solo a ver el final
            return
        cliente.ultima, cliente.hasta = tanda.numero, paso.numero
        cliente.lineas = tanda.linea + tanda.lineas - paso.entrada.lineas       # su despedida no es de la sala
        self._al_dia.pop(cliente, None)
        self._plazos[cliente] = time.monotonic() + self.sala.ajustes.plazo_cierre
        if cliente.roto:
            self._soltar(cliente)
        elif cliente.cursor is None:
            self._despedir(cliente)

    def _despedir(self, cliente):
        """Ya lo tiene todo. Se cierra en un sentido y se espera al otro: si quedara algo suyo por leer, cerrar del
        todo sería un RST, que puede borrar lo último que se le envió (RFC 1122, 4.2.2.13)."""
        try:
            cliente.conexion.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._soltar(cliente)
            return
        self._selector.register(cliente.conexion.socket, selectors.EVENT_READ, cliente)

    def _escurrir(self, cliente):
        try:
            queda = cliente.conexion.socket.recv(TAM_LECTURA, SIN_ESPERA)
        except BlockingIOError:
            return
        except OSError:
            queda = b''
        if not queda:
            self._soltar(cliente)

    def _cortar(self, cliente, error):
        """Su socket ya no vale. Se despierta a su hilo, que lo despedirá; solo entonces se puede cerrar: antes, el
        número de su descriptor podría pasar a otro cliente mientras su hilo aún lee."""
        self._dar_por_roto(cliente)
        cliente.conexion.rota = isinstance(error, ConnectionResetError)
        apagar(cliente.conexion.socket)
        if cliente.ultima is not None:
            self._soltar(cliente)

    def _soltar(self, cliente):
        """Cierra su conexión, si la tiene. Su lector ha terminado."""
        self._plazos.pop(cliente, None)
        conexion = cliente.conexion
        if conexion is not None:
            self._dar_por_roto(cliente)
            cliente.conexion, cliente.resto = None, b''
            conexion.socket.close()
            self.sala.olvidar(conexion)

    def _dar_por_roto(self, cliente):
        self._al_dia.pop(cliente, None)
        cliente.roto, cliente.cursor = True, None
        if cliente.conexion.socket in self._selector.get_map():
            self._selector.unregister(cliente.conexion.socket)

    def _vencer_plazos(self):
        if self._plazos:
            ahora = time.monotonic()
            for cliente in [cliente for cliente, plazo in self._plazos.items() if plazo <= ahora]:
                self._soltar(cliente)
