"""`python -m tests.fuzz [--segundos N] [--semilla S]`: clientes al azar contra un servidor de verdad, y las cuentas.

En cada ronda, un servidor recién arrancado y de diez a veinticinco jugadores: unos hablan bien (con `nc`, con cabecera
o con sesión, y entonces se cortan y vuelven de todas las maneras) y otros envían barbaridades. Al final todos vuelven y
leen hasta la última línea, y el `Modelo` comprueba que cada uno dijo y vio justo lo que debía.

Todo el azar de una ronda sale de un solo `random.Random(semilla)`: con la misma semilla juegan los mismos, en el mismo
orden y a lo mismo. El entrelazado de los hilos del servidor no se repite: un fallo raro puede pedir jugar la misma
ronda unas cuantas veces.
"""

import argparse
import collections
import contextlib
import random
import selectors
import socket
import sys
import threading
import time
import traceback

from config import AjustesServidor
from tests.jugadores import ConCabecera, Formal, Roto, Sesion, Simple
from tests.modelo import TESTIGO, Fallo, Modelo
from tests.utiles import PLAZO, servidor

FIN = 'y esto es todo'
MEMORIA = AjustesServidor.max_memoria


# ── La ronda ─────────────────────────────────────────────────────────────────────────────────────────────────────

class Mesa:
    """Los jugadores de una ronda y su único bucle: un hilo para todos."""

    def __init__(self, direccion, azar, ajustes, cifras):
        self.direccion, self.cifras = direccion, cifras
        self.selector = selectors.DefaultSelector()
        self.conexiones, self.vidas = set(), []
        self.parada = False         # si se ha pedido al servidor que pare
        self.puede_perder = ajustes['max_memoria'] < MEMORIA
        self.puede_olvidar = 'max_ausentes' in ajustes
        self.claves = [ajustes['clave']] if 'clave' in ajustes else []
        # Con poca espera, a quien envía de byte en byte se le tiene por uno de los que no ponen fin de línea.
        self.trozos_del_saludo = [1, 1000] if ajustes['espera_marco'] == PLAZO else [1000]
        self.con_comandos = not self.puede_perder and azar.random() < 0.8
        self.nicks = [azar.choice(['ana', 'Ana', 'ñandú', f'j{numero}', f'j{numero}', f'j{numero}', f'李雷.{numero}'])
                      for numero in range(azar.randint(10, 25))]
        self._ultima = 0
        self.testigo, self.cerrador = Sesion(self, TESTIGO), Simple(self, 'cerrador')
        clases = azar.choices([Simple, ConCabecera, Sesion, Roto], [3, 1, 6, 2], k=len(self.nicks))
        buzones = azar.choices([None, 4096], [3, 1], k=len(self.nicks))
        self.jugadores = [clase(self, nick, buzon) for clase, nick, buzon in zip(clases, self.nicks, buzones)]

    def siguiente_vida(self):
        self._ultima += 1
        return self._ultima

    def formales(self):
        return [self.cerrador] + [jugador for jugador in self.jugadores if isinstance(jugador, Formal)]

    def atender(self, plazo):
        for clave, sucesos in self.selector.select(plazo):
            if not clave.data.acabada:
                clave.data.atender(sucesos)

    def esperar(self, faltan, promesa):
        """Atiende hasta que `faltan()`, la lista de jugadores que no han llegado, se quede vacía."""
        limite = time.monotonic() + PLAZO
        while quienes := faltan():
            if time.monotonic() > limite:
                raise Fallo(promesa, quienes[0].vida or quienes[0].nick)
            self.atender(0.02)

    def jugar(self, azar):
        for jugador in (self.testigo, self.cerrador):
            jugador.entrar()
            self.esperar(lambda: [] if jugador.vida.visto()[0] else [jugador], 'se entra')
        for _ in range(azar.randint(150, 500)):
            jugador, propio = azar.choice(self.jugadores), random.Random(azar.getrandbits(64))
            pausa = azar.choice([0, 0, 0, 0.001, 0.01])
            jugador.jugar(propio)
            self.atender(pausa)

    def terminar(self, abiertas, parar):
        """Todos vuelven y leen hasta el final, que es lo que dice el cerrador; quizá después para el servidor.

        Antes ha de haber atendido cuanto quedó por el camino: un intento de volver que se abandonó puede sustituir aún
        a la conexión buena. `abiertas()` dice cuántas tiene.
        """
        for conexion in [conexion for conexion in self.conexiones if isinstance(conexion.dueno, Roto)]:
            conexion.cerrar()
        self.esperar(lambda: [jugador for jugador in self.formales() if not jugador.sosegarse()] or self._sobran(abiertas),
                     'lo que se envía se acepta, y el servidor cierra las conexiones que se sustituyen o se despiden')
        final = f'[cerrador] {FIN}'
        self.cerrador.conexion.enviar(self.cerrador.enmarcar(FIN))
        presentes = [jugador for jugador in [self.testigo, *self.formales()[1:]] if jugador.presente()]
        self.esperar(lambda: self._sin_ver(final, presentes), 'la última línea les llega a todos')
        if parar is not None:
            self._ver_parar(parar, presentes)
        for vida in self.vidas:
            if vida.vio(final):
                del vida.recibidas[[linea.texto for linea in vida.recibidas].index(final) + 1:]

    def _sobran(self, abiertas):
        return [self.testigo] if abiertas() != len(self.conexiones) else []

    @staticmethod
    def _sin_ver(final, presentes):
        """Quienes no la han visto. Por si las cuentas salían y aun así a alguno se le acaba de sustituir, vuelve."""
        faltan = [jugador for jugador in presentes if not jugador.vida.vio(final)]
        for jugador in faltan:
            jugador.sosegarse()
        return faltan

    def _ver_parar(self, parar, presentes):
        self.parada = True
        parar()
        self.esperar(lambda: [jugador for jugador in presentes if jugador.conexion], 'al parar se cierra todo')
        for jugador in presentes:
            if not jugador.vio_el_cierre():
                raise Fallo('al parar se avisa a todos, y a cada sesión de cuánto se le aceptó', jugador.vida,
                            jugador.vida.recibidas[-1].texto)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for conexion in list(self.conexiones):
            conexion.cerrar()
        self.selector.close()


def sortear_ajustes(azar):
    """Los ajustes del servidor, llevados a los rincones."""
    ajustes = {
        'ritmo': azar.choice([0, 0, 0, 300, 100]), 'rafaga': azar.choice([100, 10]),
        'historial': azar.choice([0, 3, 20]), 'espera_pregunta': azar.choice([0.5, 0.01]),
        'espera_marco': azar.choice([PLAZO, 0.02]),
        'max_memoria': azar.choice([MEMORIA, MEMORIA, 5_000, 60_000]),
        'max_pendiente': azar.choice([512 * 1024, 400, 5_000]),
        'plazo_ausencia': azar.choice([30, 30, 0.2, 0.02]),
        'plazo_cierre': PLAZO,      # que en una máquina ocupada nadie se quede sin su despedida
    }
    if azar.random() < 0.2:
        ajustes['max_ausentes'] = 3
    if azar.random() < 0.1:
        ajustes['clave'] = 'ábrete, sésamo'
    return ajustes


def ronda(semilla, cifras=None):
    """Juega una ronda y devuelve sus cifras, sumadas a `cifras`. Si se rompe una promesa, falla con `Fallo`."""
    cifras = collections.Counter() if cifras is None else cifras
    azar = random.Random(semilla)
    ajustes, estrecho, para = sortear_ajustes(azar), azar.random() < 0.3, azar.random() < 0.5
    with excepciones_de_los_hilos(), servidor(**ajustes) as charla:
        if estrecho and ajustes['max_memoria'] >= 60_000:   # con menos, también el testigo podría perderse algo
            charla.servidor._escucha.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with Mesa(charla.direccion, azar, ajustes, cifras) as mesa:
            mesa.jugar(azar)
            mesa.terminar(lambda: len(charla.sala.conexiones()), charla.parar if para else None)
    modelo = Modelo(mesa.testigo.vida.visto()[1], ajustes['historial'], mesa.puede_perder)
    vidas = [vida for vida in mesa.vidas if vida not in (mesa.testigo.vida, mesa.cerrador.vida)]
    modelo.comprobar(vidas)
    cifras.update({'rondas': 1, 'clientes': mesa.siguiente_vida() - 1, 'entregas': modelo.entregas,
                   'perdidas': modelo.perdidas})
    return cifras


@contextlib.contextmanager
def excepciones_de_los_hilos():
    """Una excepción que se escapa de un hilo es un fallo de quien la dejó escapar."""
    anterior, escapadas = threading.excepthook, []
    threading.excepthook = lambda suceso: escapadas.append((suceso.thread.name, ''.join(
        traceback.format_exception(suceso.exc_type, suceso.exc_value, suceso.exc_traceback))))
    try:
        yield
    finally:
        threading.excepthook = anterior
        for nombre, traza in escapadas:
            print(traza, file=sys.stderr)
            raise Fallo('ningún hilo muere de una excepción', nombre, traza.splitlines()[-1])


# ── El programa ──────────────────────────────────────────────────────────────────────────────────────────────────

def jugar(segundos, semilla):
    """Rondas con las semillas `semilla`, `semilla + 1`… durante `segundos`; una, al menos. Devuelve sus cifras."""
    cifras, fin = collections.Counter(), time.monotonic() + segundos
    while not cifras['rondas'] or time.monotonic() < fin:
        try:
            ronda(semilla + cifras['rondas'], cifras)
        except AssertionError as fallo:
            while isinstance(fallo.__context__, AssertionError):    # los que son consecuencia de otro
                fallo = fallo.__context__
            raise AssertionError(f'{fallo}\n  para repetir esta ronda: python -m tests.fuzz --segundos 0 '
                                 f'--semilla {semilla + cifras["rondas"]}') from fallo
    return cifras


def resumen(cifras):
    return ('{rondas} rondas, {clientes} clientes, {acciones} acciones; {mensajes} mensajes enviados, '
            '{entregas} entregas comprobadas; {cortes} cortes, {regresos} regresos, {perdidas} pérdidas anunciadas: '
            'sin pérdidas, repeticiones ni desórdenes'.format_map(collections.defaultdict(int, cifras)))


def main(argumentos=None):
    analizador = argparse.ArgumentParser(prog='python -m tests.fuzz', add_help=False, allow_abbrev=False,
                                         usage=argparse.SUPPRESS, description=__doc__.partition('\n')[0])
    opciones = analizador.add_argument_group('Opciones')
    opciones.add_argument('--segundos', type=float, default=60, help='cuánto jugar (60); 0, una sola ronda')
    opciones.add_argument('--semilla', type=int, default=time.time_ns() % 1_000_000,
                          help='la de la primera ronda; las demás, las siguientes (una al azar)')
    opciones.add_argument('-h', '--help', '--ayuda', action='help', help='muestra esta ayuda')
    orden = analizador.parse_args(argumentos)
    print(f'Semilla {orden.semilla}.', flush=True)
    try:
        print(resumen(jugar(orden.segundos, orden.semilla)))
    except AssertionError as fallo:
        print(f'FALLO: {fallo}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
