"""La charla del cliente: un hilo envía y otro recibe.

    pantalla ──▶ enviar ──▶ servidor ──▶ recibir ──▶ pantalla

`recibir` conecta, escucha y, si se corta, vuelve a conectar; cada conexión se la pasa a `enviar`, que es quien la
cierra. `enviar` espera a la vez al teclado, al socket y a un aviso, así que nada lo deja parado: ni un servidor que
frena ni una persona que no escribe. Una línea sigue entre las pendientes hasta que el servidor dice que la aceptó:
al volver tras un corte se envía lo que él no tenga, y él, lo que aquí no se haya visto.
"""

import collections
import math
import random
import secrets
import select
import socket
import threading
import time

import protocolo
import sesion
from config import PUERTO, TAM_LECTURA
from red import Despertador, apagar

SIN_CLAVE = 'Sin la clave de la sala no se puede entrar. Se puede dar en la variable CHAT_CLAVE.'


class Charla:
    """Los dos hilos y lo que comparten. Ha terminado cuando lo dice el suceso `fin`."""

    def __init__(self, ajustes, puerto, nick, pantalla):
        self._ajustes, self._pantalla = ajustes, pantalla
        self._servidor = (ajustes.host, puerto)
        self._espera = ajustes.espera
        if self._espera is None:
            self._espera = float('inf') if pantalla.hay_persona else ajustes.espera_sin_teclado
        self.fin = threading.Event()
        self.codigo = 0                             # de salida del programa
        self._ficha = secrets.token_hex(16)         # acredita nuestra sesión ante el servidor
        self._nick = nick                           # el último que confirmó el servidor; lo pone `recibir`
        self._prefijo = protocolo.prefijo(nick)     # el del nick con que se entra: también lo quita el servidor
        self._visto = 0                             # número de la última línea recibida; de `recibir`
        self._bandeja = sesion.Bandeja(ajustes.cada_acuse)      # lo escrito y aún no aceptado; de `enviar`, como lo que sigue
        self._abierta = None                        # la conexión que hay, se haya entrado ya o no
        self._conexion = None                       # la misma, cuando se puede hablar por ella
        self._saliendo = False                      # la persona se va, o se acabó la entrada
        self._sucesos = collections.deque()         # de `recibir` a `enviar`: (método, argumentos)
        self._atendidos = threading.Semaphore(0)    # cortes de los que `enviar` ya sabe
        self._clave = ajustes.clave                 # la última que se ha probado
        self._clave_enviada = False                 # por esta conexión
        self._claves_tecleadas = 0
        self._proxima_pregunta = None               # instante en que preguntar por lo enviado y no aceptado
        self._pide_clave = False                    # la línea siguiente es la clave
        self._interrumpida = False                  # hay que irse; lo pone el hilo principal, por Ctrl+C, o `recibir`
        self._respuesta = None                      # (recibidos, retomada), lo que dijo el servidor; de `recibir`
        self._limite_entrada = 0.0                  # instante en que se deja de esperar a entrar; de `recibir`
        self._dentro = False                        # si por esta conexión se ha entrado; de `recibir`
        self._rechazos = set()                      # lo que se ha dicho al no dejarnos entrar; de `recibir`
        self._reintento = None                      # instante del próximo intento de conexión; lo pone `recibir`
        self._nicks = {nick: None}                  # los que se han visto, para completar; los pone `recibir`
        self._despertador = Despertador()           # el de `enviar`
        # Los acaba `terminar`. daemon: un intento de conexión no se deja interrumpir.
        self._hilos = [threading.Thread(target=objetivo, name=objetivo.__name__, daemon=True)
                       for objetivo in (self.enviar, self.recibir)]

    def empezar(self):
        """Pone en marcha los dos hilos."""
        self._pantalla.empezar(self._despertador.tocar, self._completar)
        for hilo in self._hilos:
            hilo.start()

    def despedirse(self):
        """Ctrl+C: el servidor lo sabrá, si está ahí; no se le espera más de `plazo_despedida`."""
        self._interrumpida = True
        self._despertador.tocar()
        self.fin.wait(self._ajustes.plazo_despedida)

    def terminar(self):
        """Acaba con los dos hilos, esté cada uno donde esté, y devuelve de cuántas líneas no se sabe que llegaran."""
        self.fin.set()
        self._despertador.tocar()
        enviar, recibir = self._hilos
        if enviar.is_alive():
            enviar.join(self._ajustes.plazo_despedida)
        self._pantalla.terminar()
        if recibir.is_alive():
            recibir.join(self._ajustes.plazo_despedida)
        self._atender_sucesos()
        self._despertador.cerrar()
        return len(self._bandeja) - (self._saliendo and len(self._bandeja) > 0)     # la despedida no es de la persona

    # Hilo que envía. Acaba cuando se pone `fin`

    def enviar(self):
        """Lee el teclado y envía lo pendiente, según se pueda una cosa u otra."""
        self._encolar(self._pantalla.leidas())
        while not self.fin.is_set():
            self._preguntar_si_toca()
            self._pantalla.refrescar(self._estado())
            leer = [self._despertador.lectura] + [self._pantalla] * self._quiere_leer()
            escribir = [self._conexion] if self._conexion and self._bandeja.hay_que_enviar() else []
            listos, puede, _ = select.select(leer, escribir, [], self._espera_maxima())
            if puede:
                self._enviar_algo()
            if self._pantalla in listos:
                self._encolar(self._pantalla.leer())
            if self._despertador.lectura in listos:
                self._atender_aviso()
        if self._abierta:
            apagar(self._abierta)       # saca a `recibir` de su espera
        self._atendidos.release()       # y de esta otra, para siempre

    def _quiere_leer(self):
        """A una persona se le atiende siempre; de una tubería no se lee más de lo que se puede guardar."""
        if self._saliendo:
            return False
        return self._pantalla.hay_persona or len(self._bandeja) < self._ajustes.max_pendientes

    def _encolar(self, lineas):
        for linea in lineas:
            if self._pide_clave:
                self._teclear_clave(linea)
                continue
            clase, texto = protocolo.interpretar(linea, (self._prefijo, protocolo.prefijo(self._nick)))
            if clase == protocolo.SALIDA:
                self._marcharse()
                return
            if clase == protocolo.LARGO:
                self._pantalla.decir(protocolo.aviso_largo(texto))
                self._pantalla.devolver(linea)
                if not self._pantalla.hay_persona:
                    self.codigo = 1     # un guion ha de saber que algo no se envió
            elif clase == protocolo.PULSO:
                self._pantalla.decir(f'{texto} es una señal entre programas: no se envía.')
            elif clase != protocolo.NADA:
                self._pantalla.repetir(linea, self._nick)
                self._bandeja.anadir(linea)
        if self._pantalla.hay_persona and not self._conexion:
            self._olvidar_sobrantes()
        if self._pantalla.agotada:
            self._marcharse()
            if self._pide_clave and not self._pantalla.hay_persona:
                self._renunciar(SIN_CLAVE)

    def _olvidar_sobrantes(self):
        maximo = self._ajustes.max_pendientes
        if olvidadas := self._bandeja.recortar(maximo):
            self._pantalla.decir(f'Sin conexión solo guardo las últimas {maximo} líneas: '
                                 f'he olvidado {olvidadas} de las primeras.')

    def _marcharse(self):
        """El #LOGOUT va detrás de lo pendiente. Si no hay a quién enviarlo, una persona no tiene por qué esperar."""
        if not self._saliendo:
            self._saliendo = True
            self._bandeja.anadir('#LOGOUT')
        if not self._conexion and (self._pantalla.hay_persona or self._interrumpida):
            self.fin.set()

    def _enviar_algo(self):
        if self._proxima_pregunta is None:
            self._proxima_pregunta = time.monotonic() + self._ajustes.silencio
        try:
            self._bandeja.enviados(self._conexion.send(self._bandeja.siguiente()))
        except BlockingIOError:
            pass
        except OSError:
            apagar(self._conexion)      # `recibir` lo notará y avisará del corte
            self._conexion = None

    # Lo que `recibir` le cuenta

    def _atender_aviso(self):
        self._despertador.atender()
        self._atender_sucesos()
        if self._saliendo or self._interrumpida:
            self._marcharse()

    def _atender_sucesos(self):
        while self._sucesos:
            atender, argumentos = self._sucesos.popleft()
            atender(*argumentos)

    def _al_conectar(self, conexion):
        self._abierta = conexion

    def _al_entrar(self, conexion, recibidos, retomada):
        self._bandeja.empezar(recibidos, retomada)
        self._conexion, self._claves_tecleadas = conexion, 0

    def _al_aceptar(self, recibidos):
        self._bandeja.aceptar(recibidos)
        if not self._bandeja:
            self._proxima_pregunta = None

    def _al_callar(self):
        self._bandeja.preguntar()

    def _al_pedir_clave(self):
        """La primera vez se prueba la que se sabe. Si no la hay o no vale, la da quien teclea, o la tubería."""
        if self._clave and not self._clave_enviada:
            self._enviar_clave()
        elif self._pantalla.hay_persona and self._claves_tecleadas < self._ajustes.intentos_clave:
            self._pide_clave = True
            self._pantalla.ocultar(True)
            self._pantalla.decir('Esta sala tiene clave. Escríbela (no se verá) y pulsa Enter.')
        elif self._pantalla.hay_persona or self._clave or (self._saliendo and len(self._bandeja) == 1):
            self._renunciar(SIN_CLAVE)
        elif self._bandeja:
            self._teclear_clave(self._bandeja.sacar())
        else:
            self._pide_clave = True

    def _teclear_clave(self, linea):
        self._pide_clave = False
        self._pantalla.ocultar(False)
        if protocolo.es_salida(linea):
            self._marcharse()
            return
        self._claves_tecleadas += 1
        self._clave = linea
        self._enviar_clave()

    def _renunciar(self, motivo):
        self._pantalla.decir(motivo)
        self.codigo = 1
        self.fin.set()

    def _enviar_clave(self):
        self._clave_enviada = True
        try:
            self._abierta.send(protocolo.codificar(self._clave))
        except OSError:
            pass    # se ha cortado: lo dirá `recibir`

    def _al_cortarse(self):
        self._abierta.close()
        self._abierta, self._conexion, self._clave_enviada = None, None, False
        if self._pide_clave:
            self._pide_clave = False
            self._pantalla.ocultar(False)
        if self._saliendo and not self._bandeja:     # todo aceptado, también el #LOGOUT
            self.fin.set()
        self._atendidos.release()

    def _estado(self):
        """Lo que antecede a la línea de edición: quién eres, o qué pasa con la conexión, y cuánto espera salir."""
        reintento = self._reintento     # una sola lectura: es de otro hilo
        if self._conexion:
            estado = self._nick
        elif self._pide_clave:
            estado = 'clave'
        elif reintento is None:
            estado = 'conectando'
        else:
            estado = f'sin conexión, {max(0, math.ceil(reintento - time.monotonic()))} s'
        espera = self._bandeja.sin_salir() if self._conexion else len(self._bandeja)
        return f'[{estado}, {espera} por enviar] ' if espera > bool(self._conexion) else f'[{estado}] '

    def _preguntar_si_toca(self):
        """De lo que sale se quiere saber pronto si llegó, aunque otros no callen: si el servidor muere, no se repetirá."""
        if self._conexion and self._proxima_pregunta is not None and time.monotonic() >= self._proxima_pregunta:
            self._proxima_pregunta = None
            self._bandeja.preguntar()

    def _espera_maxima(self):
        """Segundos hasta que haya que preguntar o, sin conexión, hasta que cambie la cuenta atrás; `None`: sin límite."""
        ahora, reintento = time.monotonic(), self._reintento
        if self._conexion:
            return None if self._proxima_pregunta is None else max(0, self._proxima_pregunta - ahora)
        if reintento is None or not self._pantalla.hay_persona:
            return None
        return max(0, reintento - ahora) % 1 + 0.001

    def _completar(self, comienzo):
        """Las palabras que pueden ir en lugar de la última de `comienzo`: comandos, o nicks vistos."""
        *anteriores, palabra = comienzo.split(' ')
        if not anteriores and palabra.startswith('/'):
            return [f'{comando} ' for comando in protocolo.COMANDOS if comando.startswith(palabra.casefold())]
        final = ' ' if anteriores else ': '
        return [nick + final for nick in sorted(self._nicks) if nick != self._nick
                and nick.casefold().startswith(palabra.casefold())]

    # Hilo que recibe. Acaba cuando se pone `fin`, o lo pone él al rendirse o al irse

    def recibir(self):
        """Conecta y muestra lo que llega; si se corta, vuelve a conectar."""
        limite = time.monotonic() + self._espera
        pausa, explicado = self._ajustes.pausa_minima, False
        while not self.fin.is_set():
            try:
                conexion = self._conectar()
            except (OSError, UnicodeError) as error:
                if not explicado:
                    self._pantalla.decir(self._explicar(error))
                    explicado = True
            else:
                self._contar(self._al_conectar, conexion)
                self._limite_entrada = min(limite, time.monotonic() + self._ajustes.plazo_entrada)
                entrado = self._escuchar(conexion)
                self._contar(self._al_cortarse)
                self._atendidos.acquire()
                if self.fin.is_set():
                    break
                if entrado:
                    self._pantalla.decir('Se ha cortado la conexión; intento volver. Lo que escribas se enviará entonces.')
                    limite = time.monotonic() + self._espera
                    pausa, explicado = self._ajustes.pausa_minima, False
                    self._rechazos.clear()
                elif not explicado:
                    self._pantalla.decir(f'No he podido entrar. {self._insisto()}')
                    explicado = True
            queda = limite - time.monotonic()
            if queda <= 0:
                self._pantalla.decir(f'Lo dejo: no ha habido manera en {self._espera:g} segundos.')
                self.codigo = 1
                break
            descanso = min(queda, pausa * random.uniform(0.8, 1.2))
            self._reintento = time.monotonic() + descanso
            self._despertador.tocar()
            self.fin.wait(descanso)
            self._reintento = None
            pausa = min(pausa * 1.6, self._ajustes.pausa_maxima)
        self.fin.set()
        self._despertador.tocar()

    def _conectar(self):
        conexion = socket.create_connection(self._servidor, self._ajustes.plazo_conexion)
        try:
            if conexion.getsockname() == conexion.getpeername():
                raise ConnectionRefusedError    # sin servidor, TCP puede conectar un puerto efímero consigo mismo
            conexion.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conexion.sendall(protocolo.codificar(sesion.peticion(self._ficha, self._visto)))
        except OSError:
            conexion.close()
            raise
        conexion.setblocking(False)
        return conexion

    def _contar(self, suceso, *argumentos):
        self._sucesos.append((suceso, argumentos))
        self._despertador.tocar()

    def _escuchar(self, conexion):
        """Muestra lo que llega hasta que se corte, o se agote el plazo para entrar. Devuelve si se llegó a entrar."""
        lector = protocolo.Lineas()
        self._respuesta, self._dentro = None, False
        while datos := self._esperar_algo(conexion):
            for linea in lector.recibir(datos):
                if self._respuesta is None:
                    self._abrir_sesion(conexion, linea)
                else:
                    self._atender_linea(conexion, linea)
        return self._dentro

    def _esperar_algo(self, conexion):
        """Lo que llegue. `b''` si se ha cortado, si venció el plazo sin entrar, o si ni preguntado da señales de vida:
        por un cable desenchufado, o tras despertar un portátil, no llega ni el aviso de que se cortó."""
        if not self._dentro:
            return recibir_algo(conexion, self._limite_entrada - time.monotonic()) or b''
        datos = recibir_algo(conexion, self._ajustes.silencio)
        if datos is None:
            self._contar(self._al_callar)
            datos = recibir_algo(conexion, self._ajustes.plazo_respuesta)
        return datos or b''

    def _abrir_sesion(self, conexion, linea):
        self._respuesta = sesion.leer_respuesta(linea)
        if self._respuesta is None:
            self._atender_rechazo(linea)
            return
        _, retomada = self._respuesta
        if retomada:
            self._entrar(conexion)
            return
        if self._visto:
            self._pantalla.decir('El servidor se ha reiniciado y no te recuerda: lo que se dijo mientras tanto no está. '
                                 'Lo que escribiste y no había aceptado se envía ahora.')
            self._visto = 0
        try:
            conexion.sendall(protocolo.codificar(self._nick))
        except OSError:
            pass    # se ha cortado: se verá al leer

    def _atender_rechazo(self, linea):
        """Lo que se dice a quien no puede pasar: se enseña una vez, por muchas que se insista."""
        if linea == sesion.peticion(self._ficha, self._visto):
            host, puerto = self._servidor
            self._contar(self._renunciar, f'En {host}:{puerto} hay un servidor de eco, no una sala. '
                                          f'Para hablar con él: python cliente.py --eco --puerto {puerto}')
        elif linea not in self._rechazos and len(self._rechazos) < self._ajustes.max_rechazos:
            self._rechazos.add(linea)
            self._mostrar(linea)

    def _entrar(self, conexion):
        self._dentro = True
        self._pantalla.decir('Conectado a {}:{}.'.format(*self._servidor))
        self._contar(self._al_entrar, conexion, *self._respuesta)

    def _atender_linea(self, conexion, linea):
        numero, linea = protocolo.Numeradas.separar(linea)
        recibidos, nick = sesion.leer_acuse(linea), protocolo.nick_avisado(linea)
        if recibidos is not None:
            self._contar(self._al_aceptar, recibidos)
        elif linea == protocolo.pregunta_a_programa(protocolo.CLAVE):
            self._limite_entrada = time.monotonic() + self._ajustes.plazo_clave
            self._contar(self._al_pedir_clave)
        else:
            if nick and not self._dentro:
                self._entrar(conexion)
            self._nick = nick or self._nick
            self._apuntar_nicks(linea)
            self._mostrar(linea)
            if linea == protocolo.aviso(protocolo.despedida(self._nick)):
                self._contar(self.fin.set)      # el servidor ha entendido que nos vamos, lo hayamos dicho como sea
            elif linea == protocolo.aviso(protocolo.SIN_CLAVE):
                self._contar(self._renunciar, SIN_CLAVE)
        self._visto = numero or self._visto

    def _mostrar(self, linea):
        try:
            self._pantalla.mostrar(linea, self._nick)
        except BrokenPipeError:     # nadie lee ya lo que se muestra: aquí no hay nada más que hacer
            self._interrumpida = True
            self._despertador.tocar()

    def _apuntar_nicks(self, linea):
        entran, salen = protocolo.presencia(linea)
        for nick in salen:
            self._nicks.pop(nick, None)
        for nick in entran:
            self._nicks[nick] = None

    def _explicar(self, error):
        host, puerto = self._servidor
        if isinstance(error, (socket.gaierror, UnicodeError)):
            return f'No encuentro la máquina «{host}»: ¿está bien escrita? {self._insisto()}'
        opcion = '' if puerto == PUERTO else f' --puerto {puerto}'
        return f'No hay ningún servidor en {host}:{puerto}. Para arrancarlo, en otra terminal: ' \
               f'python server.py{opcion} — {self._insisto()}'

    def _insisto(self):
        if self._espera == float('inf'):
            return 'Sigo intentándolo; Ctrl+C para dejarlo.'
        return f'Lo intento durante {self._espera:g} segundos.'


def recibir_algo(conexion, plazo):
    """Lo que llegue. `b''`: se ha cortado; `None`: en `plazo` segundos no ha llegado nada."""
    try:
        listos, _, _ = select.select([conexion], [], [], max(0, plazo))
        return conexion.recv(TAM_LECTURA) if listos else None
    except OSError:
        return b''
