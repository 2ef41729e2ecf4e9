"""La charla a través de una red que corta y congela: nada se pierde, nada se repite, y el orden es el mismo para todos.

Primero, que el proxy corta de verdad y que la comprobación nota lo que ha de notar; luego, la sala.
"""

import contextlib
import os
import random
import signal
import socket
import threading
import types

import pytest

from tests import tertulia
from tests.procesos import puerto_libre_de_clase
from tests.proxy import MANERAS, ProxyCortante
from tests.utiles import PLAZO, esperar_a, sockets_abiertos

solo_posix = pytest.mark.skipif(os.name == 'nt', reason='usa señales de POSIX')


# ── El proxy ─────────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def enlazar():
    """Función que hace un proxy, con `opciones`, y devuelve `(proxy, conectar)`; `conectar` da los dos extremos de una
    conexión que pasa por él: `(cliente, servidor)`."""
    abiertos = []

    def nuevo(**opciones):
        escucha = socket.create_server(('127.0.0.1', 0))
        escucha.settimeout(PLAZO)
        abiertos.append(escucha)
        proxy = ProxyCortante(escucha.getsockname(), **opciones)
        abiertos.append(types.SimpleNamespace(close=lambda: proxy.__exit__()))

        def conectar():
            extremos = socket.create_connection(proxy.direccion, PLAZO), escucha.accept()[0]
            for extremo in extremos:
                extremo.settimeout(PLAZO)
            abiertos.extend(extremos)
            return extremos
        return proxy, conectar

    hilos, sockets = set(threading.enumerate()), sockets_abiertos()
    yield nuevo
    for abierto in reversed(abiertos):
        abierto.close()
    assert set(threading.enumerate()) <= hilos, 'el proxy deja hilos'
    assert sockets is None or sockets_abiertos() <= sockets, 'el proxy deja sockets'


def leer(extremo, cuantos=None):
    """Lo que llega hasta el final, o hasta `cuantos` bytes. Un RST es un final."""
    datos = b''
    try:
        while (cuantos is None or len(datos) < cuantos) and (mas := extremo.recv(65536)):
            datos += mas
    except ConnectionResetError:
        pass
    return datos


def enviar(extremo, datos):
    """Envía `datos` y termina, si no se corta antes, desde un hilo: el otro extremo tiene que ir leyendo."""
    def hasta_el_corte():
        with contextlib.suppress(OSError):
            extremo.sendall(datos)
            extremo.shutdown(socket.SHUT_WR)

    hilo = threading.Thread(target=hasta_el_corte)
    hilo.start()
    return hilo


def test_el_proxy_sin_cortes_pasa_cada_byte_en_los_dos_sentidos(enlazar):
    proxy, conectar = enlazar(vida=None)
    cliente, servidor = conectar()
    ida, vuelta = (random.Random(semilla).randbytes(1_000_000) for semilla in (1, 2))
    leido = []
    hilos = [enviar(cliente, ida), enviar(servidor, vuelta)]
    hilos.append(threading.Thread(target=lambda: leido.append(leer(servidor))))
    hilos[-1].start()
    assert leer(cliente) == vuelta
    for hilo in hilos:
        hilo.join()
    assert leido == [ida]
    assert proxy.bytes == {'ida': len(ida), 'vuelta': len(vuelta)} and not proxy.cortes


@pytest.mark.parametrize('manera', MANERAS)
def test_el_proxy_corta_como_se_le_dice(enlazar, manera):
    proxy, conectar = enlazar(vida=None)
    cliente, servidor = conectar()
    proxy.cortar(manera)
    for lado, extremo in (('cliente', cliente), ('servidor', servidor)):
        if manera in (f'rst_{lado}', 'rst_ambos'):
            with pytest.raises(ConnectionResetError):
                extremo.recv(1)
        else:
            assert extremo.recv(1) == b''
    assert proxy.cortes == {manera: 1}


def test_el_proxy_corta_en_mitad_de_una_linea_en_los_dos_sentidos(enlazar):
    proxy, conectar = enlazar(vida=(0, 0), p_congelar=0, p_a_medias=1, maneras=('fin',))
    lineas = 'qué año\n'.encode() * 3
    while set(proxy.a_medias) != {'ida', 'vuelta'}:     # en cada conexión toca uno de los dos
        antes = dict(proxy.a_medias)
        cliente, servidor = conectar()
        hilos = [enviar(cliente, lineas), enviar(servidor, lineas)]
        llegado = {'vuelta': leer(cliente), 'ida': leer(servidor)}
        for hilo in hilos:
            hilo.join()
        for sentido, datos in llegado.items():
            assert lineas.startswith(datos)
            if proxy.a_medias[sentido] != antes.get(sentido, 0):
                assert datos and not datos.endswith(b'\n')


def test_el_proxy_congelado_no_pasa_nada_y_luego_lo_pasa_todo(enlazar):
    proxy, conectar = enlazar(vida=None, caudal=2_000_000)
    cliente, servidor = conectar()
    datos = random.Random(3).randbytes(500_000)
    cliente.sendall(datos[:200_000])
    llegado = leer(servidor, 1000)
    proxy.congelar()
    hilo = enviar(cliente, datos[200_000:])
    pasado = proxy.bytes['ida']
    llegado += leer(servidor, pasado - len(llegado))
    otro_cliente, otro_servidor = conectar()
    otro_cliente.sendall(b'esta no')
    assert leer(otro_servidor, 7) == b'esta no'
    esperar_a(lambda: proxy.bytes['ida'] == pasado + 7, 'que solo pase lo de la otra')
    servidor.setblocking(False)
    with pytest.raises(BlockingIOError):
        servidor.recv(1)
    servidor.settimeout(PLAZO)
    proxy.descongelar()
    assert llegado + leer(servidor) == datos
    hilo.join()
    assert proxy.congelaciones == 1


def test_el_proxy_hace_de_todo_y_deja_de_hacerlo_cuando_se_le_dice(enlazar):
    proxy, conectar = enlazar(semilla=1, vida=(0, 0.02), p_congelar=0.3, congelacion=(0, 0.02),
                             p_a_medias=0)
    while set(proxy.cortes) != set(MANERAS) or proxy.congelaciones < 5:
        for extremo in conectar():
            leer(extremo)
    proxy.dejar_de_cortar()
    cortes = proxy.cortes.total()
    cliente, servidor = conectar()
    hilo = enviar(cliente, b'x' * 3_000_000)
    assert len(leer(servidor)) == 3_000_000 and proxy.cortes.total() == cortes
    hilo.join()


def test_el_proxy_corta_a_quien_llega_cuando_no_hay_servidor():
    with socket.socket() as reservado:      # nadie más puede usar su puerto, y no escucha
        reservado.bind(('127.0.0.1', 0))
        with ProxyCortante(reservado.getsockname(), vida=None) as proxy, \
                socket.create_connection(proxy.direccion, PLAZO) as cliente:
            assert leer(cliente) == b''


# ── La comprobación ──────────────────────────────────────────────────────────────────────────────────────────────

TODAS = ['[luis] l1', '[eva] e1', '[luis] l2']


@pytest.mark.parametrize('vistas, falta', [
    (['* Hola, ana.', *TODAS, '* luis salió.'], None),
    (TODAS[:-1], 'ana no ha visto: «[luis] l2»'),
    ([*TODAS, TODAS[1]], 'ana ha visto más de una vez: «[eva] e1 (2 veces)»'),
    ([*TODAS, '[ana] a1'], 'ana ha visto de vuelta lo suyo: «[ana] a1»'),
    ([*TODAS, '[luis] l'], 'ana ha visto lo que nadie dijo: «[luis] l»'),
    ([TODAS[2], TODAS[1], TODAS[0]], 'ana ha visto tarde: «[luis] l1 (después de [luis] l2)»'),
    ([TODAS[1], TODAS[0], TODAS[2]], 'tras «el principio», ana ha visto «[eva] e1» y bea, «[luis] l1»'),
    ([*TODAS, '* Te perdiste 3 mensajes.'], 'ana ha visto un aviso que no tocaba: «* Te perdiste 3 mensajes.»'),
    ([*TODAS, '* luis salió.', '* luis salió.'], 'ana ha visto un aviso que no tocaba: «* luis salió.»'),
])
def test_la_comprobacion_dice_que_linea_falta_sobra_o_esta_donde_no_debe(vistas, falta):
    def contertulio(nick, dichas, vistas):
        salida = ''.join(linea + '\n' for linea in vistas)
        uno = tertulia.Contertulio(types.SimpleNamespace(salida=salida, errores='', todo=salida), nick)
        uno.dichas = dichas
        return uno

    gente = [contertulio('ana', ['a1'], vistas), contertulio('bea', [], TODAS[:1] + ['[ana] a1'] + TODAS[1:]),
             contertulio('luis', ['l1', 'l2'], ['[ana] a1', '[eva] e1']),
             contertulio('eva', ['e1'], ['[luis] l1', '[ana] a1', '[luis] l2'])]
    assert falta in tertulia.faltas(gente) if falta else tertulia.faltas(gente) == []


# ── La sala ──────────────────────────────────────────────────────────────────────────────────────────────────────

def despedir(gente, servidor):
    """Todos se van, el servidor se cierra, y nadie ha fallado en nada."""
    assert [uno.despedirse() for uno in gente] == [0] * len(gente), tertulia.errores(gente)
    faltas = tertulia.faltas(gente)
    assert not faltas, '\n'.join(faltas)
    if os.name != 'nt':
        servidor.enviar_senal(signal.SIGTERM)
        assert servidor.acabar() == 0
        dichas = sum(len(uno.dichas) for uno in gente)
        assert f'Fin: personas {len(gente)}, mensajes {dichas}, ' in servidor.salida
    assert servidor.errores == ''


def test_por_un_proxy_que_no_corta_todos_lo_ven_todo(arrancar, lanzar):
    servidor, puerto = arrancar()
    with ProxyCortante(('127.0.0.1', puerto), vida=None) as proxy:
        gente = tertulia.reunir(lanzar, proxy.direccion[1], 3)
        for uno in gente:
            uno.hablar(range(1, 501))
        tertulia.esperar_a_que_lo_vean_todo(gente)
        despedir(gente, servidor)


def test_con_cortes_sin_parar_nada_se_pierde_ni_se_repite_y_el_orden_es_el_mismo_para_todos(arrancar, lanzar):
    servidor, puerto = arrancar()
    with ProxyCortante(('127.0.0.1', puerto), semilla=2026, caudal=60_000) as proxy:
        gente = tertulia.reunir(lanzar, proxy.direccion[1], 4)
        for uno in gente:
            uno.hablar(range(1, 2001))
        tertulia.esperar_a_que_lo_vean_todo(gente)
        despedir(gente, servidor)       # y los cortes siguen
        # Cada uno recibe unos 300 kB a 60 kB/s por conexiones de un segundo a lo sumo: menos cortes no puede haber.
        assert proxy.cortes.total() >= 10, proxy.resumen()


def test_lo_que_guardaba_una_conexion_congelada_y_abandonada_no_se_repite_al_descongelarse(arrancar, lanzar):
    servidor, puerto = arrancar()
    with ProxyCortante(('127.0.0.1', puerto), vida=None) as proxy:
        gente = tertulia.reunir(lanzar, proxy.direccion[1], 2, programa='tests/impaciente.py')
        proxy.congelar()
        for uno in gente:
            uno.hablar(range(1, 101))
        tertulia.esperar_a_que_lo_vean_todo(gente)      # por otras conexiones
        proxy.descongelar()
        esperar_a(lambda: proxy.abiertas == 2, 'que las congeladas, ya abandonadas, se cierren')
        despedir(gente, servidor)


def test_lo_que_se_congela_mas_de_lo_que_dura_la_paciencia_no_se_pierde_ni_se_repite(arrancar, lanzar):
    servidor, puerto = arrancar()
    with ProxyCortante(('127.0.0.1', puerto), semilla=7, vida=(0.1, 0.8), p_congelar=0.7, congelacion=(1, 2),
                       caudal=10_000) as proxy:
        gente = tertulia.reunir(lanzar, proxy.direccion[1], 3, programa='tests/impaciente.py')
        for uno in gente:
            uno.hablar(range(1, 201))
        tertulia.esperar_a_que_lo_vean_todo(gente)
        despedir(gente, servidor)
        assert proxy.congelaciones >= 3, proxy.resumen()


@solo_posix
def test_si_el_servidor_se_reinicia_lo_no_aceptado_llega_una_vez_al_nuevo_y_se_dice_que_no_recuerda(arrancar, lanzar):
    puerto = puerto_libre_de_clase()
    primero, _ = arrancar('--mostrar', puerto=puerto)
    with ProxyCortante(('127.0.0.1', puerto), vida=None) as proxy:
        gente = ana, luis = tertulia.reunir(lanzar, proxy.direccion[1], 2)
        seguir = threading.Event()

        def numeros():      # sin parar de hablar mientras el servidor se cierra: algo pilla por el camino
            yield from range(1, 101)
            for numero in range(101, 1001):
                if seguir.wait(0.002):
                    break
                yield numero
            yield from range(1001, 1101)

        ana.hablar(numeros())
        luis.proceso.esperar(f'[ana] {ana.linea(100)}\n')
        primero.enviar_senal(signal.SIGTERM)
        assert primero.acabar() == 0
        for uno in gente:
            uno.proceso.esperar('Se ha cortado la conexión')
        seguir.set()
        ana.terminar_de_hablar()
        segundo, _ = arrancar('--mostrar', puerto=puerto)
        segundo.esperar(f'[ana] {ana.linea(1100)}\n')
        for uno in gente:
            uno.proceso.esperar('no te recuerda')
        dichas = [linea for servidor in (primero, segundo) for linea in servidor.salida.splitlines()
                  if linea.startswith('[ana] ')]
        assert dichas == [f'[ana] {linea}' for linea in ana.dichas]
        assert [uno.despedirse() for uno in gente] == [0, 0]
        assert not any('Traceback' in uno.proceso.todo for uno in gente)


def test_un_acuse_que_se_repite_tras_un_corte_no_da_por_aceptado_lo_que_no_lo_esta(lanzar):
    def atender(escucha, *respuestas):
        """Hace de servidor en la conexión siguiente: lee lo primero, responde y devuelve el socket y un lector."""
        conexion = escucha.accept()[0]
        conexion.settimeout(PLAZO)
        lector = conexion.makefile(encoding='utf-8', newline='\n')
        assert lector.readline().startswith('#SESION ')
        conexion.sendall(''.join(linea + '\n' for linea in respuestas).encode())
        return conexion, lector

    with socket.create_server(('127.0.0.1', 0)) as escucha:
        escucha.settimeout(PLAZO)
        bot = lanzar('cliente.py', '--puerto', escucha.getsockname()[1], '--nick', 'bot', '--espera', 60)
        conexion, lector = atender(escucha, '#SESION 0 nueva', '1 * Tu nick es bot', '2 * Hola, bot.')
        with conexion, lector:
            assert lector.readline() == 'bot\n'
            bot.escribir('uno\ndos\ntres\n')
            assert [lector.readline() for _ in range(3)] == ['uno\n', 'dos\n', 'tres\n']
        bot.escribir('cuatro\ncinco\n')
        # Acepta las tres; el acuse de la primera, que iba por el cable, se repite, y luego llega el de las tres.
        conexion, lector = atender(escucha, '#SESION 3 retomada', '3 #VIVO 1', '4 #VIVO 3', '5 * pasado.')
        with conexion, lector:
            bot.esperar('* pasado.')
        conexion, lector = atender(escucha, '#SESION 3 retomada')
        with conexion, lector:
            assert [lector.readline() for _ in range(2)] == ['cuatro\n', 'cinco\n']
