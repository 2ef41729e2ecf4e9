"""El generador: todos los clientes de una medida, en un proceso propio y con un solo hilo.

Para no ser él el límite, mientras corre el reloj solo envía lo ya preparado y recibe en memoria ya reservada, contando
bytes: como las líneas tienen un ancho fijo, sabe cuántos ha de recibir cada cliente. Qué bytes son se comprueba
después, con el reloj parado (`comprobar.py`). Lee siempre antes de escribir, para no hacer rezagados a sus clientes.

Antes de empezar espera a que todos hayan entrado y, con una marca, a que todos hayan leído los avisos de las entradas.
"""

import gc
import signal
import socket
import time
from typing import NamedTuple

from . import comprobar, proceso
from .servidores import Idioma, nick, texto
from .sondeo import ESCRIBIR, LEER, esperar, hacer_sondeo, reservar

MEBIBYTE = 1 << 20
TROZO_ENVIO = 64 * 1024
HOLGURA = 4096              # bytes de más que caben por cliente: lo que llegue ahí, sobra
SILENCIO = 0.1              # segundos sin nada nuevo tras los que se da por cierto que no sobra nada
PARADO = 5.0                # segundos sin recibir nada, con todo enviado, tras los que lo que falta se da por perdido
PLAZO_MARCA = 20.0


class Plan(NamedTuple):
    """Una medida. Los que envían son los primeros; los detenidos, los últimos; delante de ellos, si hay, el testigo."""

    idioma: Idioma
    puerto: int
    pid: int                # del servidor, para saber lo que gasta
    clientes: int
    emisores: int = 0
    mensajes: int = 0       # en total, a partes iguales
    ritmo: float = 0        # mensajes por segundo en total; 0: tan rápido como se pueda
    segundos: float = 0     # sin mensajes: cuánto se observa el reposo
    detenidos: int = 0      # no leen nunca
    techo: bool = False
    limite: float = 30.0        # segundos de la parte cronometrada
    limite_entrada: float = 60.0


class Fallo(Exception):
    """La medida no se puede hacer; su texto dice por qué."""


def ejecutar(plan, tubo):
    """Lo que hace el proceso: mide y deja en `tubo` un diccionario, que tiene `fallo` si no se pudo."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl+C lo atiende quien nos arrancó, que es quien nos para
    try:
        with _Generador(plan) as generador:
            prioridad = proceso.subir_prioridad()
            resultado = {**generador.medir(), 'prioridad': prioridad}
    except (Fallo, OSError) as error:
        resultado = {'fallo': str(error)}
    tubo.send(resultado)


class _Cliente:
    __slots__ = ('indice', 'conexion', 'memoria', 'inicio', 'posicion', 'meta', 'salida', 'vigilado',
                 'horas', 'cortes')

    def __init__(self, indice, conexion):
        self.indice, self.conexion = indice, conexion
        self.posicion = self.meta = 0
        self.salida = b''                   # lo que falta por enviar
        self.vigilado = LEER
        self.horas, self.cortes = [], []    # de cada lectura: cuándo, y bytes que van recibidos


class _Generador:
    def __init__(self, plan):
        self.plan = plan
        self.sondeo = hacer_sondeo()
        self.clientes = []
        self.por_fd = {}
        self.envio = plan.idioma.envio.format
        self.ancho = len(plan.idioma.entrega.format(nick=nick(0), texto=texto(0)))
        self.faltan = 0         # clientes que no lo han recibido todo
        self.inicio = 0         # hora del primer mensaje, en ns
        self.retraso = 0        # el mayor entre la hora de un mensaje y su envío, en ns

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sondeo.close()
        for cliente in self.clientes:
            cliente.conexion.close()

    def medir(self):
        plan = self.plan
        resultado = {'memoria_antes': proceso.memoria_kib(plan.pid)}
        inicio = time.monotonic()
        self._entrar()
        resultado['entrada'] = time.monotonic() - inicio
        if not plan.techo:
            self._marcar(0, -1)
            self._marcar(-1, 0)
        resultado['memoria_dentro'] = proceso.memoria_kib(plan.pid)
        self._preparar()
        gc.collect()
        gc.freeze()
        gc.disable()    # una pausa del recolector parecería latencia del servidor
        antes = self._gastos()
        if plan.techo:
            self.clientes[0].conexion.send(b'x')
            terminado = self._rafaga()
        elif plan.ritmo:
            terminado = self._pausado()
        elif plan.mensajes:
            terminado = self._rafaga()
        else:
            time.sleep(plan.segundos)
            terminado = True
        despues = self._gastos()
        gc.enable()
        resultado['memoria_despues'] = proceso.memoria_kib(plan.pid)
        for nombre, valor in despues.items():
            resultado[nombre] = None if valor is None else valor - antes[nombre]
        self._escuchar_sobras()
        resultado['terminado'] = terminado
        resultado.update(comprobar.comprobar(self, terminado))
        return resultado

    def _gastos(self):
        pid = self.plan.pid
        # solo en reposo: mirar miles de hilos lleva tiempo
        cambios = None if self.plan.mensajes else proceso.cambios_de_contexto(pid)
        return {'cambios': cambios, 'cpu_servidor': proceso.cpu_ns(pid), 'cpu_generador': time.process_time_ns(),
                'duracion': time.perf_counter_ns()}

    # Entrar

    def _entrar(self):
        plan, esperando = self.plan, {}
        fin = time.monotonic() + plan.limite_entrada
        while len(self.clientes) < plan.clientes or esperando:
            if time.monotonic() > fin:
                raise Fallo(f'en {plan.limite_entrada:g} s solo entran {len(self.clientes) - len(esperando)}')
            while len(self.clientes) < plan.clientes and len(esperando) < plan.idioma.ventana:
                cliente = self._conectar(len(self.clientes))
                self.clientes.append(cliente)
                if not plan.techo:
                    esperando[cliente] = b''
            for fd, _ in self.sondeo.poll(0.5 if esperando else 0):
                cliente = self.por_fd[fd]
                datos = self._leer(cliente)
                if cliente in esperando:
                    datos = esperando[cliente] + datos
                    if plan.idioma.aceptado.format(nick=nick(cliente.indice)).encode() in datos:
                        del esperando[cliente]
                    else:
                        esperando[cliente] = datos[-200:]

    def _conectar(self, indice):
        conexion = socket.create_connection(('127.0.0.1', self.plan.puerto), 10)
        conexion.setblocking(False)
        conexion.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.plan.techo:
            conexion.send(self.plan.idioma.presentacion.format(nick=nick(indice)).encode())
        cliente = _Cliente(indice, conexion)
        self.por_fd[conexion.fileno()] = cliente
        self.sondeo.register(conexion.fileno(), LEER)
        return cliente

    def _leer(self, cliente):
        try:
            datos = cliente.conexion.recv(MEBIBYTE)
        except BlockingIOError:
            return b''
        if not datos:
            raise Fallo(f'el servidor cierra la conexión de {nick(cliente.indice)} antes de empezar')
        if datos.startswith(b'PING '):
            cliente.conexion.send(datos.split(b'\n', 1)[0].replace(b'PING', b'PONG') + b'\n')
        return datos

    def _marcar(self, autor, otro):
        """`autor` dice algo y se espera a que los demás lo lean: lo anterior queda leído; lo suyo, con `otro`."""
        autor = self.clientes[autor]
        marca = self.plan.idioma.entrega.format(nick=nick(autor.indice), texto=f'marca {otro}').encode()
        autor.conexion.send(self.envio(texto=f'marca {otro}').encode())
        esperando = {cliente: b'' for cliente in self.clientes if cliente is not autor}
        fin = time.monotonic() + PLAZO_MARCA
        while esperando:
            if time.monotonic() > fin:
                raise Fallo(f'{len(esperando)} clientes no reciben la marca que da la salida')
            for fd, _ in self.sondeo.poll(0.5):
                cliente = self.por_fd[fd]
                datos = esperando.get(cliente, b'') + self._leer(cliente)
                if datos.endswith(marca):
                    esperando.pop(cliente, None)
                elif cliente in esperando:
                    esperando[cliente] = datos[-len(marca):]

    # Preparar

    def numeros(self, indice):
        """Los números de los mensajes del cliente `indice`: uno de cada `emisores`."""
        return range(indice, self.plan.mensajes, self.plan.emisores) if indice < self.plan.emisores else range(0)

    def receptores(self):
        activos = self.clientes[:len(self.clientes) - self.plan.detenidos]
        return activos[1:] if self.plan.techo else activos

    def _preparar(self):
        """Reserva la memoria de lo que se va a recibir, ya tocada, y las líneas que se van a enviar."""
        plan = self.plan
        for cliente in self.clientes[len(self.clientes) - plan.detenidos:]:
            self.sondeo.unregister(cliente.conexion.fileno())
        if not plan.mensajes:
            return
        total = 0
        for cliente in self.receptores():
            cliente.inicio = total
            cliente.meta = (plan.mensajes - (0 if plan.techo else len(self.numeros(cliente.indice)))) * self.ancho
            total += cliente.meta + HOLGURA
            self.faltan += cliente.meta > 0
        vista = memoryview(reservar(total))
        for cliente in self.receptores():
            cliente.memoria = vista[cliente.inicio:cliente.inicio + cliente.meta + HOLGURA]
        if plan.techo:
            return
        if plan.ritmo:
            self.lineas = [self.envio(texto=texto(numero)).encode() for numero in range(plan.mensajes)]
            return
        for cliente in self.clientes[:plan.emisores]:
            lineas = ''.join([self.envio(texto=texto(numero)) for numero in self.numeros(cliente.indice)])
            cliente.salida = memoryview(lineas.encode())
            self._vigilar(cliente, LEER | ESCRIBIR)

    # Con el reloj en marcha

    def _rafaga(self):
        """Todos envían cuanto se les admite. Cierto si todos han recibido todo, falso si se acabó el plazo."""
        sondear, por_fd = self.sondeo.poll, self.por_fd
        fin, vacias = time.monotonic() + self.plan.limite, 0
        while self.faltan and vacias < PARADO:
            sucesos = sondear(0.5)
            vacias = 0 if sucesos else vacias + 0.5
            if time.monotonic() > fin:
                return False
            for fd, suceso in sucesos:
                if suceso != ESCRIBIR:
                    self._recibir(por_fd[fd])
            for fd, suceso in sucesos:
                if suceso & ESCRIBIR:
                    self._enviar(por_fd[fd])
        return True

    def _pausado(self):
        """Cada mensaje a su hora, prevista de antemano: si algo se retrasa, cuenta como latencia y no aplaza el resto.

        Apunta cuándo llega cada lectura. Cierto si todos han recibido todo, falso si se acabó el plazo.
        """
        plan, lineas, por_fd, sondear = self.plan, self.lineas, self.por_fd, self.sondeo.poll
        reloj, emisores, cada = time.perf_counter_ns, self.clientes[:plan.emisores], 1e9 / plan.ritmo
        vacias, siguiente, total = 0, 0, len(lineas)
        self.inicio = inicio = previsto = reloj() + 10_000_000
        fin = inicio + int(plan.limite * 1e9)
        while self.faltan and vacias < PARADO:
            ahora = reloj()
            while siguiente < total and previsto <= ahora:
                self.retraso = max(self.retraso, ahora - previsto)
                cliente = emisores[siguiente % plan.emisores]
                cliente.salida = bytes(cliente.salida) + lineas[siguiente]
                self._enviar(cliente)
                siguiente += 1
                previsto = inicio + int(siguiente * cada)
                ahora = reloj()
            if ahora > fin:
                return False
            sucesos = sondear(0, 64)    # pocos cada vez: lo que toca enviar no espera a todas las lecturas
            if not sucesos:
                espera = min(0.5, max(0, previsto - reloj()) / 1e9) if siguiente < total else 0.5
                vacias = vacias + espera if siguiente == total else 0
                esperar(self.sondeo, espera)
                continue
            vacias = 0
            for fd, suceso in sucesos:
                cliente = por_fd[fd]
                if suceso & ESCRIBIR:
                    self._enviar(cliente)
                if suceso != ESCRIBIR:
                    self._recibir(cliente)
                    cliente.horas.append(reloj())
                    cliente.cortes.append(cliente.posicion)
        return True

    def _recibir(self, cliente):
        posicion = cliente.posicion
        try:
            recibidos = cliente.conexion.recv_into(cliente.memoria[posicion:posicion + MEBIBYTE])
        except BlockingIOError:
            return
        except OSError:
            recibidos = 0
        if not recibidos:       # cerrado por el servidor, o llegó más de lo que cabe: lo dirá la comprobación
            self.sondeo.unregister(cliente.conexion.fileno())
            return
        cliente.posicion = posicion + recibidos
        if posicion < cliente.meta <= cliente.posicion:
            self.faltan -= 1

    def _enviar(self, cliente):
        try:
            enviados = cliente.conexion.send(cliente.salida[:TROZO_ENVIO])
        except BlockingIOError:
            enviados = 0
        except OSError:
            enviados = len(cliente.salida)      # cerrado por el servidor: lo verá la lectura
        cliente.salida = cliente.salida[enviados:]
        self._vigilar(cliente, LEER | ESCRIBIR if cliente.salida else LEER)

    def _vigilar(self, cliente, sucesos):
        if sucesos != cliente.vigilado:
            cliente.vigilado = sucesos
            try:
                self.sondeo.modify(cliente.conexion.fileno(), sucesos)
            except (OSError, KeyError):
                pass    # ya no se vigila: el servidor la cerró

    def _escuchar_sobras(self):
        """Nada más debería llegar: lo que llegue, está repetido o no es de nadie."""
        fin = time.monotonic() + 2
        while time.monotonic() < fin and self.plan.mensajes:
            sucesos = self.sondeo.poll(SILENCIO)
            if not sucesos:
                return
            for fd, suceso in sucesos:
                if suceso & ~ESCRIBIR:
                    self._recibir(self.por_fd[fd])
