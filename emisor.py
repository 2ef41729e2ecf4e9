"""El hilo que envía: del teclado al servidor.

    pantalla ──▶ pendientes ──▶ servidor

`enviar` espera a la vez al teclado, al socket y a un aviso, así que nada lo deja parado: ni un servidor que frena ni una
persona que no escribe. Una línea sigue entre las pendientes hasta que el servidor dice que la aceptó: al volver tras un
corte se envía lo que él no tenga.

Del hilo que recibe (`receptor.py`) solo sabe lo que este le cuenta. Las conexiones que él abre se cierran aquí.
"""

import collections
import math
import select
import threading
import time

import protocolo
import sesion
from red import Despertador, apagar

SIN_CLAVE = 'Sin la clave de la sala no se puede entrar. Se puede dar en la variable CHAT_CLAVE.'


class Emisor:
    """Lo que se ha escrito y el servidor aún no ha aceptado, y la conexión por la que va.

    Todo es del hilo `enviar`, salvo lo que dice que llaman otros. `codigo`: el de salida del programa.
    """

    def __init__(self, ajustes, nick, pantalla, fin):
        self._ajustes, self._pantalla, self._fin = ajustes, pantalla, fin
        self.codigo = 0
        self._nick = nick                           # el último que confirmó el servidor
        self._prefijo = protocolo.prefijo(nick)     # el del nick con que se entra: también lo quita el servidor
        self._nicks = set()                         # los que se han visto, para completar
        self._bandeja = sesion.Bandeja(ajustes.cada_acuse)
        self._abierta = None                        # la conexión que hay, se haya entrado ya o no
        self._conexion = None                       # la misma, cuando se puede hablar por ella
        self._reintento = None                      # instante del próximo intento de conexión
        self._proxima_pregunta = None               # instante en que preguntar por lo enviado y no aceptado
        self._saliendo = False                      # la persona se va, o se acabó la entrada
        self._clave = ajustes.clave                 # la última que se ha probado
        self._clave_enviada = False                 # por esta conexión
        self._claves_tecleadas = 0
        self._pide_clave = False                    # la línea siguiente es la clave
        self._interrumpido = False
        self._despertador = Despertador()
        self._sucesos = collections.deque()         # de otros hilos a este: (método, argumentos)
        self._cierres = threading.Semaphore(0)      # conexiones cortadas que ya se han cerrado

    # Lo que llaman otros hilos

    def contar(self, suceso, *argumentos):
        """`suceso`, uno de los métodos `al_…`, se hará en este hilo."""
        self._sucesos.append((suceso, argumentos))
        self.despertar()

    def interrumpir(self):
        """Hay que irse; si no hay conexión, sin esperar a que la haya."""
        self._interrumpido = True
        self.despertar()

    def despertar(self):
        """Saca a `enviar` de su espera."""
        self._despertador.tocar()

    def esperar_al_cierre(self):
        """Espera a que se cierre una conexión de la que se contó que se ha cortado, o a que `enviar` acabe."""
        self._cierres.acquire()

    def terminar(self):
        """Cuando los dos hilos han acabado, o no se les espera más. Devuelve cuántas líneas no consta que llegaran."""
        self._atender_sucesos()
        self._despertador.cerrar()
        return len(self._bandeja) - (self._saliendo and len(self._bandeja) > 0)     # la despedida no es de la persona

    # El hilo. Acaba cuando se pone `fin`

    def enviar(self):
        """Lee el teclado y envía lo pendiente, según se pueda una cosa u otra."""
        self._encolar(self._pantalla.leidas())
        while not self._fin.is_set():
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
                self._atender_avisos()
        if self._abierta:
            apagar(self._abierta)       # saca a `recibir` de su espera
        self._cierres.release()         # y de esta otra, para siempre

    def _quiere_leer(self):
        """A una persona se le atiende siempre; de una tubería no se lee más de lo que se puede guardar."""
        if self._saliendo:
            return False
        return self._pantalla.hay_persona or len(self._bandeja) < self._ajustes.max_pendientes

    def _encolar(self, lineas):
        self._atender_sucesos()     # quizá respondan a lo que ya se ha mostrado: el nick ha de ser el de entonces
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
                self.al_renunciar(SIN_CLAVE)

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
        if not self._conexion and (self._pantalla.hay_persona or self._interrumpido):
            self._fin.set()

    def _enviar_algo(self):
        if self._proxima_pregunta is None:
            self._proxima_pregunta = time.monotonic() + self._ajustes.silencio
        try:
            self._bandeja.enviados(self._conexion.send(self._bandeja.siguiente()))
        except BlockingIOError:
            pass
        except OSError:
            apagar(self._conexion)      # `recibir` lo notará y contará el corte
            self._conexion = None

    def _preguntar_si_toca(self):
        """De lo que sale se quiere saber pronto si llegó, aunque otros no callen: si el servidor muere, no se repetirá."""
        if self._conexion and self._proxima_pregunta is not None and time.monotonic() >= self._proxima_pregunta:
            self._proxima_pregunta = None
            self._bandeja.preguntar()

    def _estado(self):
        """Lo que antecede a la línea de edición: quién eres, o qué pasa con la conexión, y cuánto espera salir."""
        if self._conexion:
            estado = self._nick
        elif self._pide_clave:
            estado = 'clave'
        elif falta := self._hasta_el_reintento():
            estado = f'sin conexión, {math.ceil(falta)} s'
        else:
            estado = 'conectando'
        espera = self._bandeja.sin_salir() if self._conexion else len(self._bandeja)
        return f'[{estado}, {espera} por enviar] ' if espera > bool(self._conexion) else f'[{estado}] '

    def _hasta_el_reintento(self):
        """Segundos que faltan; 0 si no se espera."""
        return max(0, self._reintento - time.monotonic()) if self._reintento else 0

    def _espera_maxima(self):
        """Segundos hasta que haya que preguntar o, sin conexión, hasta que cambie la cuenta atrás; `None`: sin límite."""
        if self._conexion:
            return None if self._proxima_pregunta is None else max(0, self._proxima_pregunta - time.monotonic())
        falta = self._hasta_el_reintento()
        return falta % 1 + 0.001 if falta and self._pantalla.hay_persona else None

    def completar(self, comienzo):
        """Las palabras que pueden ir en lugar de la última de `comienzo`: comandos, o nicks vistos."""
        *anteriores, palabra = comienzo.split(' ')
        if not anteriores and palabra.startswith('/'):
            return [f'{comando} ' for comando in protocolo.COMANDOS if comando.startswith(palabra.casefold())]
        final = ' ' if anteriores else ': '
        return [nick + final for nick in sorted(self._nicks) if nick != self._nick
                and nick.casefold().startswith(palabra.casefold())]

    # Lo que le cuentan

    def _atender_avisos(self):
        self._despertador.atender()
        self._atender_sucesos()
        if self._saliendo or self._interrumpido:
            self._marcharse()

    def _atender_sucesos(self):
        while self._sucesos:
            atender, argumentos = self._sucesos.popleft()
            atender(*argumentos)

    def al_esperar(self, reintento):
        """No hay conexión; se intentará en ese instante de `time.monotonic`."""
        self._reintento = reintento

    def al_conectar(self, conexion):
        """Hay conexión, pero aún no se ha entrado en la sala."""
        self._abierta, self._reintento = conexion, None

    def al_entrar(self, recibidos, retomada):
        """Ya se puede hablar; el servidor dice cuántas líneas de esta sesión ha aceptado, y si la recuerda."""
        self._bandeja.empezar(recibidos, retomada)
        self._conexion, self._claves_tecleadas = self._abierta, 0

    def al_llamarse(self, nick):
        """El servidor confirma un nick."""
        self._nick = nick

    def al_ver(self, entran, salen):
        """Se sabe de nicks que hay, y de otros que ya no."""
        self._nicks.difference_update(salen)
        self._nicks.update(entran)

    def al_aceptar(self, recibidos):
        """El servidor dice cuántas líneas ha aceptado ya."""
        self._bandeja.aceptar(recibidos)
        if not self._bandeja:
            self._proxima_pregunta = None

    def al_callar(self):
        """Hace rato que no llega nada: ¿sigue ahí?"""
        self._bandeja.preguntar()

    def al_despedirse(self):
        """El servidor ha entendido que nos vamos, lo hayamos dicho como sea."""
        self._fin.set()

    def al_renunciar(self, motivo):
        """No hay manera de entrar: se dice por qué, y se acaba."""
        self._pantalla.decir(motivo)
        self.codigo = 1
        self._fin.set()

    def al_cortarse(self):
        """La conexión ya no sirve."""
        self._abierta.close()
        self._abierta, self._conexion, self._clave_enviada = None, None, False
        if self._pide_clave:
            self._pide_clave = False
            self._pantalla.ocultar(False)
        if self._saliendo and not self._bandeja:     # todo aceptado, también el #LOGOUT
            self._fin.set()
        self._cierres.release()

    # La clave

    def al_pedir_clave(self):
        """La primera vez se prueba la que se sabe. Si no la hay o no vale, la da quien teclea, o la tubería."""
        if self._clave and not self._clave_enviada:
            self._enviar_clave()
        elif self._pantalla.hay_persona and self._claves_tecleadas < self._ajustes.intentos_clave:
            self._pide_clave = True
            self._pantalla.ocultar(True)
            self._pantalla.decir('Esta sala tiene clave. Escríbela (no se verá) y pulsa Enter.')
        elif self._pantalla.hay_persona or self._clave or (self._saliendo and len(self._bandeja) == 1):
            self.al_renunciar(SIN_CLAVE)
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

    def _enviar_clave(self):
        self._clave_enviada = True
        try:
            self._abierta.send(protocolo.codificar(self._clave))
        except OSError:
            pass    # se ha cortado: lo contará `recibir`
