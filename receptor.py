"""El hilo que recibe: del servidor a la pantalla.

    servidor ──▶ pantalla

`recibir` conecta, se presenta y muestra lo que llega; si se corta, vuelve a conectar y dice qué fue lo último que vio,
para que el servidor le dé lo que falta. Lo que importa al hilo que envía se lo cuenta al `Emisor`; también cada
conexión, que cierra él.
"""

import random
import secrets
import select
import socket
import time

import protocolo
import sesion
from config import PUERTO, TAM_LECTURA
from emisor import SIN_CLAVE


class Receptor:
    """La conexión vista desde quien escucha. Todo es del hilo `recibir`."""

    def __init__(self, ajustes, puerto, nick, pantalla, fin, emisor):
        self._ajustes, self._pantalla, self._fin, self._emisor = ajustes, pantalla, fin, emisor
        self._servidor = (ajustes.host, puerto)
        self._espera = ajustes.espera               # segundos que se insiste en conectar
        if self._espera is None:
            self._espera = float('inf') if pantalla.hay_persona else ajustes.espera_sin_teclado
        self._nick = nick                           # el último que confirmó el servidor
        self._ficha = secrets.token_hex(16)         # acredita nuestra sesión ante el servidor
        self._nicks = set()                         # los que se han visto: de cada mensaje no se cuenta su autor
        self._visto = 0                             # número de la última línea recibida
        self._respuesta = None                      # a nuestra sesión, por esta conexión: (recibidos, retomada)
        self._dentro = False                        # si por esta conexión se ha entrado
        self._limite_entrada = 0.0                  # instante en que se deja de esperar a entrar
        self._rechazos = set()                      # lo que se ha dicho al no dejarnos entrar

    # El hilo. Acaba cuando se pone `fin`, o al rendirse

    def recibir(self):
        """Conecta y muestra lo que llega; si se corta, vuelve a conectar."""
        limite = time.monotonic() + self._espera
        pausa, explicado = self._ajustes.pausa_minima, False
        while not self._fin.is_set():
            try:
                conexion = self._conectar()
            except (OSError, UnicodeError) as error:
                if not explicado:
                    self._pantalla.decir(self._explicar(error))
                    explicado = True
            else:
                self._emisor.contar(self._emisor.al_conectar, conexion)
                self._limite_entrada = min(limite, time.monotonic() + self._ajustes.plazo_entrada)
                entrado = self._escuchar(conexion)
                self._emisor.contar(self._emisor.al_cortarse)
                self._emisor.esperar_al_cierre()
                if self._fin.is_set():
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
                self._emisor.contar(self._emisor.al_renunciar,
                                    f'Lo dejo: no ha habido manera en {self._espera:g} segundos.')
                break
            descanso = min(queda, pausa * random.uniform(0.8, 1.2))
            self._emisor.contar(self._emisor.al_esperar, time.monotonic() + descanso)
            self._fin.wait(descanso)
            pausa = min(pausa * 1.6, self._ajustes.pausa_maxima)

    # Conectar

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

    # Escuchar

    def _escuchar(self, conexion):
        """Muestra lo que llega hasta que se corte, o se agote el plazo para entrar. Devuelve si se llegó a entrar."""
        lector = protocolo.Lineas()
        self._respuesta, self._dentro = None, False
        while datos := self._esperar_algo(conexion):
            for linea in lector.recibir(datos):
                if self._respuesta is None:
                    self._abrir_sesion(conexion, linea)
                else:
                    self._atender_linea(linea)
        return self._dentro

    def _esperar_algo(self, conexion):
        """Lo que llegue. `b''` si se ha cortado, si venció el plazo sin entrar, o si ni preguntado da señales de vida:
        por un cable desenchufado, o tras despertar un portátil, no llega ni el aviso de que se cortó."""
        if not self._dentro:
            return recibir_algo(conexion, self._limite_entrada - time.monotonic()) or b''
        datos = recibir_algo(conexion, self._ajustes.silencio)
        if datos is None:
            self._emisor.contar(self._emisor.al_callar)
            datos = recibir_algo(conexion, self._ajustes.plazo_respuesta)
        return datos or b''

    def _abrir_sesion(self, conexion, linea):
        self._respuesta = sesion.leer_respuesta(linea)
        if self._respuesta is None:
            self._atender_rechazo(linea)
            return
        _, retomada = self._respuesta
        if retomada:
            self._entrar()
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
            self._emisor.contar(self._emisor.al_renunciar,
                                f'En {host}:{puerto} hay un servidor de eco, no una sala. '
                                f'Para hablar con él: python cliente.py --eco --puerto {puerto}')
        elif linea not in self._rechazos and len(self._rechazos) < self._ajustes.max_rechazos:
            self._rechazos.add(linea)
            self._mostrar(linea)

    def _entrar(self):
        self._dentro = True
        self._pantalla.decir('Conectado a {}:{}.'.format(*self._servidor))
        self._emisor.contar(self._emisor.al_entrar, *self._respuesta)

    def _atender_linea(self, linea):
        numero, linea = protocolo.Numeradas.separar(linea)
        recibidos = sesion.leer_acuse(linea)
        if recibidos is not None:
            self._emisor.contar(self._emisor.al_aceptar, recibidos)
        elif linea == protocolo.pregunta_a_programa(protocolo.CLAVE):
            self._limite_entrada = time.monotonic() + self._ajustes.plazo_clave
            self._emisor.contar(self._emisor.al_pedir_clave)
        else:
            self._atender_presencia(linea)
            self._mostrar(linea)
            if linea == protocolo.aviso(protocolo.despedida(self._nick)):
                self._emisor.contar(self._emisor.al_despedirse)
            elif linea == protocolo.aviso(protocolo.SIN_CLAVE):
                self._emisor.contar(self._emisor.al_renunciar, SIN_CLAVE)
        self._visto = numero or self._visto

    def _atender_presencia(self, linea):
        nick = protocolo.nick_avisado(linea)
        if nick:
            self._nick = nick
            self._emisor.contar(self._emisor.al_llamarse, nick)
            if not self._dentro:
                self._entrar()
        entran, salen = protocolo.presencia(linea)
        if salen or not self._nicks.issuperset(entran):
            self._nicks.difference_update(salen)
            self._nicks.update(entran)
            self._emisor.contar(self._emisor.al_ver, entran, salen)

    def _mostrar(self, linea):
        try:
            self._pantalla.mostrar(linea, self._nick)
        except BrokenPipeError:     # nadie lee ya lo que se muestra: aquí no hay nada más que hacer
            self._emisor.interrumpir()


def recibir_algo(conexion, plazo):
    """Lo que llegue. `b''`: se ha cortado; `None`: en `plazo` segundos no ha llegado nada."""
    try:
        listos, _, _ = select.select([conexion], [], [], max(0, plazo))
        return conexion.recv(TAM_LECTURA) if listos else None
    except OSError:
        return b''
