"""Cliente de la sala: pregunta el puerto y el nick, y charla hasta que te vas.

    pantalla ──▶ enviar ──▶ servidor ──▶ recibir ──▶ pantalla

Este es el hilo principal: empieza los otros dos, espera el final o un Ctrl+C, acaba con ellos y deja la terminal como
estaba. Los otros dos están en `emisor.py` y `receptor.py`; lo que se ve y se teclea, en `terminal.py`.
"""

import os
import signal
import sys
import threading

import eco
import protocolo
import terminal
from config import PUERTO, AjustesCliente, leer_opciones
from emisor import Emisor
from receptor import Receptor

EN_WINDOWS = os.name == 'nt'


# ── Preguntas ────────────────────────────────────────────────────────────────────────────────────────────────────

def preguntar(pantalla, pregunta, comprobar):
    """Pregunta hasta que `comprobar` acepte la respuesta, y devuelve su valor; `None` si la persona quiere irse.

    `comprobar` explica con un `ValueError` por qué no la acepta.
    """
    while True:
        respuesta = pantalla.preguntar(pregunta)
        if respuesta is None or protocolo.es_salida(respuesta) or respuesta.strip().casefold() == 'salir':
            return None
        try:
            return comprobar(respuesta.strip())
        except ValueError as motivo:
            pantalla.decir(str(motivo))


def comprobar_puerto(texto):
    """El puerto que dice `texto`, de 0 a `PUERTO`, como siempre en clase; vacío o 0 es `PUERTO`."""
    if not texto:
        return PUERTO
    if not (texto.isascii() and texto.isdigit() and len(texto) <= 9 and int(texto) <= PUERTO):
        raise ValueError(f'«{texto}» no vale: escribe un número de 0 a {PUERTO}, o Enter para el {PUERTO}; uno mayor se da '
                         'así: python cliente.py --puerto N. Para irte, escribe salir.')
    return int(texto) or PUERTO


def comprobar_nick(texto):
    """`texto`, si vale como nick tal como está."""
    if not texto:
        raise ValueError(f'Hace falta un nick: {protocolo.REGLA_NICK}.')
    if not protocolo.nick_correcto(texto):
        raise ValueError(f'«{texto}» no vale: un nick tiene {protocolo.REGLA_NICK}.')
    return protocolo.arreglar_nick(texto)


# ── La charla ────────────────────────────────────────────────────────────────────────────────────────────────────

class Charla:
    """Los dos hilos. Ha terminado cuando lo dice el suceso `fin`, y entonces `codigo` es el de salida del programa."""

    def __init__(self, ajustes, puerto, nick, pantalla):
        self._ajustes, self._pantalla = ajustes, pantalla
        self.fin = threading.Event()
        self._emisor = Emisor(ajustes, nick, pantalla, self.fin)
        receptor = Receptor(ajustes, puerto, nick, pantalla, self.fin, self._emisor)
        # Los acaba `terminar`. daemon: un intento de conexión no se deja interrumpir.
        self._hilos = [threading.Thread(target=objetivo, name=objetivo.__name__, daemon=True)
                       for objetivo in (self._emisor.enviar, receptor.recibir)]

    @property
    def codigo(self):
        return self._emisor.codigo

    def empezar(self):
        """Pone en marcha los dos hilos."""
        self._pantalla.empezar(self._emisor.despertar, self._emisor.completar)
        for hilo in self._hilos:
            hilo.start()

    def despedirse(self):
        """Ctrl+C: el servidor lo sabrá, si está ahí; no se le espera más de `plazo_despedida`."""
        self._emisor.interrumpir()
        self.fin.wait(self._ajustes.plazo_despedida)

    def terminar(self):
        """Acaba con los dos hilos, esté cada uno donde esté, y devuelve de cuántas líneas no se sabe que llegaran."""
        self.fin.set()
        self._emisor.despertar()
        enviar, recibir = self._hilos
        if enviar.is_alive():
            enviar.join(self._ajustes.plazo_despedida)
        self._pantalla.terminar()
        if recibir.is_alive():
            recibir.join(self._ajustes.plazo_despedida)
        return self._emisor.terminar()


# ── El programa ──────────────────────────────────────────────────────────────────────────────────────────────────

def main(argumentos=None):
    """`python cliente.py`. Devuelve el código de salida: 0; 1 si no se pudo entrar o algo no se envió; 2 si las
    opciones no valen."""
    ajustes = leer_opciones(AjustesCliente, 'cliente.py', 'Cliente de la sala.', argumentos)
    for flujo in filter(None, (sys.stdout, sys.stderr)):
        if not hasattr(flujo, 'reconfigure'):
            print('Esto se usa en una terminal, no en IDLE: python cliente.py')
            return 2
        flujo.reconfigure(errors='replace')
    for nombre in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGBREAK'):
        if hasattr(signal, nombre) and not (nombre == 'SIGHUP' and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN):
            signal.signal(getattr(signal, nombre), signal.default_int_handler)      # con nohup, SIGHUP se ignora
    pantalla = terminal.elegir(ajustes.max_linea_leida, ajustes.simple or ajustes.eco, ajustes.sin_color)
    try:
        codigo = charlar(ajustes, pantalla)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)    # ya se está yendo
        pantalla.decir('')      # detrás del ^C
        codigo = 0
    if codigo != 2:
        pantalla.decir('Hasta luego.')
    return codigo


def charlar(ajustes, pantalla):
    """Pregunta lo que falte y charla hasta el final. Devuelve el código de salida."""
    puerto, nick = ajustes.puerto, ajustes.nick
    if puerto is None:
        puerto = preguntar(pantalla, f'Puerto (de 0 a {PUERTO}; Enter = {PUERTO}):', comprobar_puerto)
    if puerto is not None and ajustes.eco:
        return eco.medir_eco((ajustes.host, puerto or PUERTO), ajustes, pantalla)
    if puerto is not None and nick is None:
        nick = preguntar(pantalla, 'Nick:', comprobar_nick)
    if puerto is None or nick is None:
        return 0
    try:
        nick = comprobar_nick(nick.strip())
    except ValueError as motivo:
        pantalla.decir(f'Error: {motivo}')
        return 2
    charla = Charla(ajustes, puerto or PUERTO, nick, pantalla)
    try:
        charla.empezar()
        vigilar_terminal(pantalla)
        while not charla.fin.wait(0.5 if EN_WINDOWS else None):     # en Windows, esperar sin plazo no deja ver Ctrl+C
            pass
    except KeyboardInterrupt:
        charla.despedirse()
    finally:
        try:
            sin_confirmar = charla.terminar()
        finally:
            pantalla.terminar()     # pase lo que pase, la terminal queda como estaba
    if sin_confirmar:
        pantalla.decir(f'Líneas que no consta que hayan llegado: {sin_confirmar}.')
    return charla.codigo


def vigilar_terminal(pantalla):
    """Que la pantalla sepa de los cambios de tamaño, de Ctrl+Z y de `fg`. En Windows no existen estas señales."""
    if EN_WINDOWS:
        return

    def suspender(*_):
        en_uso = pantalla.soltar()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)        # aquí se para, hasta SIGCONT
        signal.signal(signal.SIGTSTP, suspender)
        if en_uso:
            pantalla.tomar()

    signal.signal(signal.SIGWINCH, lambda *_: pantalla.redibujar())
    signal.signal(signal.SIGTSTP, suspender)


if __name__ == '__main__':
    sys.exit(main())
