"""El eco por sus sockets y por sus tuberías: el servidor de la familia E y el cliente que lo mide."""

import os
import re
import signal
import socket
import threading

import pytest

import eco
from config import AjustesCliente
from red import apagar
from tests.familias import A, E
from tests.utiles import PLAZO

SOLO_POSIX = pytest.mark.skipif(os.name == 'nt', reason='Windows no tiene estas señales')


class ServidorDeEco:
    """`server.py --eco` en marcha, y quienes se conectan a él."""

    def __init__(self, lanzar, *argumentos):
        self.programa = lanzar('server.py', '--eco', '--puerto', 0, *argumentos)
        self.programa.esperar('Escuchando en ')
        self.puerto = int(re.search(r'127\.0\.0\.1:(\d+)', self.programa.salida)[1])
        self.gente, self._nombres = [], []

    def llega(self, familia=E, nick='eco', **opciones):
        self.gente.append(familia(('127.0.0.1', self.puerto), nick, **opciones))
        self.gente[-1].llegar()
        self._nombres.append('{}:{}'.format(*self.gente[-1].socket.getsockname()))
        return self.gente[-1]

    def consola(self):
        """Sus líneas, salvo la primera, que dice dónde escucha; con el nombre de quien sea en lugar de su dirección."""
        texto = self.programa.salida.partition('\n')[2]
        for numero, nombre in enumerate(self._nombres):
            texto = texto.replace(nombre, f'<{numero}>')
        return texto.splitlines()


@pytest.fixture
def servidor_de_eco(lanzar):
    servidor = ServidorDeEco(lanzar)
    yield servidor
    for uno in servidor.gente:
        uno.cerrar()


# ── Lo que va, vuelve ────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('de_uno', [False, True], ids=['de golpe', 'de byte en byte'])
@pytest.mark.parametrize('con_lineas', [False, True], ids=['crudo', 'líneas'])
def test_cada_texto_vuelve_igual(servidor_de_eco, con_lineas, de_uno):
    uno = servidor_de_eco.llega(con_lineas=con_lineas, lee_de_uno=de_uno)
    textos = ['Hola Server!', '¿qué tal? ñ', 'x' * 200, '😀' * 200, ' ', '/salir', '[ana] #LOGOUT', '12        hola',
              'desconectar ya', 'no desconectar']
    uno.decir(*textos)
    assert [texto for _, texto in uno.recibidos] == textos


def test_lo_que_no_es_texto_vuelve_byte_a_byte(servidor_de_eco):
    uno = servidor_de_eco.llega()
    for datos in (bytes(range(256)), b'\0', b'\xff' * 1000, b'\r\n\r\n', 'ñ'.encode()[:1], 'ñ'.encode()[1:]):
        uno.ida_y_vuelta(datos)


def test_vuelve_todo_a_quien_no_lee_hasta_el_final_y_mientras_se_atiende_a_los_demas(servidor_de_eco):
    datos = bytes(byte for byte in range(256) if byte != 10) * (128 * 1024)     # 32 MiB: no caben en los búferes del camino
    lento, otro = servidor_de_eco.llega(buzon=65536), servidor_de_eco.llega()
    envio = threading.Thread(target=lambda: (lento.enviar(datos), lento.terminar_de_hablar()), daemon=True)
    envio.start()
    servidor_de_eco.programa.esperar(f'{lento.socket.getsockname()[1]}: ')
    otro.decir('¿hay sitio para mí?', 'gracias')
    assert envio.is_alive()     # no cabía, y espera
    assert lento.justos(len(datos)) == datos
    envio.join(PLAZO)
    assert lento.hasta_el_final() == []


def test_varios_a_la_vez_reciben_cada_uno_lo_suyo(servidor_de_eco):
    gente = [servidor_de_eco.llega(E, f'eco{numero}', con_lineas=numero % 2 == 0) for numero in range(20)]

    def hablar(uno):
        uno.decir(*[f'{uno.nick} {numero} ñ' for numero in range(50)])

    hilos = [threading.Thread(target=hablar, args=(uno,), daemon=True) for uno in gente]
    for hilo in hilos:
        hilo.start()
    for hilo in hilos:
        hilo.join(PLAZO)
    for uno in gente:
        assert uno.recibidos == [(uno.nick, f'{uno.nick} {numero} ñ') for numero in range(50)]


def test_el_eco_no_es_una_sala(servidor_de_eco):
    ana, luis = servidor_de_eco.llega(A, 'ana'), servidor_de_eco.llega(A, 'luis')
    ana.decir('hola', '/usuarios')
    for uno, dicho in ((ana, b'ana\nhola\n/usuarios\n'), (luis, b'luis\n')):
        vuelta = b''
        while len(vuelta) < len(dicho):
            vuelta += uno.socket.recv(65536)
        assert vuelta == dicho
        uno.terminar_de_hablar()
        assert uno.socket.recv(1) == b''


# ── Irse ─────────────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('despedida', ['desconectar', 'DESCONECTAR', 'Desconectar\n', 'desconectar\r\n', 'hola\ndesconectar\n',
                                       '\ndesconectar'])
def test_desconectar_vuelve_como_todo_y_cierra(servidor_de_eco, despedida):
    uno = servidor_de_eco.llega()
    uno.decir('hola')
    uno.ida_y_vuelta(despedida.encode())
    assert uno.hasta_el_final() == [(uno.nick, 'hola'), (uno.nick, despedida)]


@pytest.mark.parametrize('antes', ['', 'hola\n', 'ho\nla\n'])
def test_desconectar_vale_aunque_llegue_de_byte_en_byte(servidor_de_eco, antes):
    uno = servidor_de_eco.llega()
    for letra in antes + 'desconectar':
        uno.ida_y_vuelta(letra.encode())
    assert ''.join(texto for _, texto in uno.hasta_el_final()) == antes + 'desconectar'


def test_tras_un_texto_crudo_desconectar_en_otro_envio_cierra(servidor_de_eco):
    uno = servidor_de_eco.llega()
    uno.decir('hola', 'des', 'hola')
    uno.irse()
    assert uno.hasta_el_final()[-1] == (uno.nick, 'desconectar')


def test_al_final_de_la_entrada_vuelve_todo_y_se_cierra(servidor_de_eco):
    uno = servidor_de_eco.llega()
    uno.enviar(b'hola sin final')
    uno.terminar_de_hablar()
    assert ''.join(texto for _, texto in uno.hasta_el_final()) == 'hola sin final'


def test_un_corte_no_molesta_a_los_demas(servidor_de_eco):
    ana, luis = servidor_de_eco.llega(), servidor_de_eco.llega()
    luis.decir('hola')
    ana.decir('hola')
    ana.enviar(b'x' * 100_000)      # le vuelve cuando ya no está
    ana.romper()
    servidor_de_eco.programa.esperar('se va; quedan 1')
    luis.decir('sigo aquí')
    assert servidor_de_eco.programa.errores == ''


# ── La consola, y el final ───────────────────────────────────────────────────────────────────────────────────────

def test_la_consola_dice_quien_llega_lo_que_dice_y_quien_se_va(servidor_de_eco):
    ana = servidor_de_eco.llega()
    ana.decir('¿qué tal?')
    luis = servidor_de_eco.llega(con_lineas=True)
    luis.decir('hola')
    ana.irse()
    assert ana.hasta_el_final()
    servidor_de_eco.programa.esperar('se va; quedan 1')
    luis.terminar_de_hablar()
    assert luis.hasta_el_final()
    servidor_de_eco.programa.esperar('se va; quedan 0')
    assert servidor_de_eco.consola() == [
        '<0> se conecta; hay 1', '<0>: ¿qué tal?', '<1> se conecta; hay 2', '<1>: hola', '<0>: desconectar',
        '<0> se va; quedan 1', '<1> se va; quedan 0']


def test_lo_recibido_no_mueve_el_cursor_de_la_consola(servidor_de_eco):
    uno = servidor_de_eco.llega()
    uno.ida_y_vuelta('\x1b[2Ja\tb\rc\0\x9b\u2028d\u202ee\x7f\xf1'.encode() + b'\xff\n')
    uno.irse()
    servidor_de_eco.programa.esperar('se va; quedan 0')
    assert servidor_de_eco.consola()[1] == '<0>: [2Ja bcdeñ\ufffd'


@SOLO_POSIX
@pytest.mark.parametrize('senal', ['SIGTERM', 'SIGINT'])
def test_una_senal_cierra_con_codigo_0_aunque_haya_clientes_dentro(servidor_de_eco, senal):
    callado, parado, hablador = [servidor_de_eco.llega() for _ in range(3)]
    hablador.decir('hola')
    envio = threading.Thread(target=enviar_hasta_que_se_corte, args=(parado,), daemon=True)    # y nunca lee
    envio.start()
    servidor_de_eco.programa.esperar(f'{parado.socket.getsockname()[1]}: ')
    servidor_de_eco.programa.enviar_senal(getattr(signal, senal))
    assert servidor_de_eco.programa.acabar() == 0
    assert servidor_de_eco.programa.errores == ''
    for uno in (callado, hablador):
        assert ''.join(texto for _, texto in uno.hasta_el_final()) in ('', 'hola')
    apagar(parado.socket)     # el sistema puede tardar en decirle que al otro lado no hay nadie
    envio.join(PLAZO)
    assert not envio.is_alive()


def enviar_hasta_que_se_corte(uno):
    try:
        while True:
            uno.enviar(b'x' * 65536)
    except OSError:
        pass    # es lo que se espera


# ── El cliente ───────────────────────────────────────────────────────────────────────────────────────────────────

ENTRADA = '¿qué tal? ñ\nhola\n\n   \n' + 'x' * 200 + '\n😀 你好'


def test_cada_linea_vuelve_con_su_tiempo(servidor_de_eco, lanzar):
    cliente = lanzar('cliente.py', '--eco', '--puerto', servidor_de_eco.puerto)
    cliente.escribir(ENTRADA)
    cliente.cerrar_entrada()
    assert cliente.acabar() == 0
    vueltas = [re.fullmatch(r'(.*) \(\d+,\d\d ms\)', linea) for linea in cliente.salida.splitlines()]
    assert [vuelta and vuelta[1] for vuelta in vueltas] == ['¿qué tal? ñ', 'hola', 'x' * 200, '😀 你好']
    assert 'Traceback' not in cliente.errores
    servidor_de_eco.programa.esperar('se va; quedan 0')


def test_la_vuelta_se_ve_sin_esperar_al_final_de_la_entrada(servidor_de_eco, lanzar):
    cliente = lanzar('cliente.py', '--eco', '--puerto', servidor_de_eco.puerto)
    cliente.escribir('hola\n')
    cliente.esperar('hola (')
    cliente.escribir('adiós\n')
    cliente.esperar('adiós (')


@pytest.mark.parametrize('despedida', ['desconectar', 'DESCONECTAR', '/salir', '#LOGOUT'])
def test_el_cliente_se_va_cuando_se_le_dice(servidor_de_eco, lanzar, despedida):
    cliente = lanzar('cliente.py', '--eco', '--puerto', servidor_de_eco.puerto)
    cliente.escribir(f'hola\n{despedida}\nesto ya no\n')
    assert cliente.acabar() == 0
    assert 'esto ya no' not in servidor_de_eco.programa.salida + cliente.salida
    servidor_de_eco.programa.esperar('se va; quedan 0')


def test_una_linea_demasiado_larga_no_se_envia_y_se_dice_cuanto_mide(servidor_de_eco, lanzar):
    cliente = lanzar('cliente.py', '--eco', '--puerto', servidor_de_eco.puerto)
    cliente.escribir('ñ' * 201 + '\nfin\n')
    cliente.cerrar_entrada()
    assert cliente.acabar() == 0
    assert 'tiene 201 caracteres y el límite es 200' in cliente.errores
    assert cliente.salida.startswith('fin (') and 'ñ' not in servidor_de_eco.programa.salida


def test_el_puerto_se_pregunta_y_el_nick_no(servidor_de_eco, lanzar):
    cliente = lanzar('cliente.py', '--eco')
    cliente.esperar('Puerto ')
    cliente.escribir('salir\n')
    assert cliente.acabar() == 0
    assert 'Nick' not in cliente.todo


def test_sin_servidor_lo_explica_y_termina_con_codigo_1(lanzar):
    cliente = lanzar('cliente.py', '--eco', '--puerto', 1, '--espera', 0.2)
    assert cliente.acabar() == 1
    assert 'python server.py --eco --puerto 1' in cliente.errores and cliente.salida == ''


@SOLO_POSIX
def test_ctrl_c_termina_con_codigo_0(servidor_de_eco, lanzar):
    cliente = lanzar('cliente.py', '--eco', '--puerto', servidor_de_eco.puerto)
    cliente.escribir('hola\n')
    cliente.esperar('hola (')
    cliente.enviar_senal(signal.SIGINT)
    assert cliente.acabar() == 0
    assert 'Traceback' not in cliente.errores


@SOLO_POSIX
def test_si_el_servidor_se_cierra_lo_dice_y_termina_con_codigo_1(servidor_de_eco, lanzar):
    cliente = lanzar('cliente.py', '--eco', '--puerto', servidor_de_eco.puerto)
    cliente.escribir('hola\n')
    cliente.esperar('hola (')
    servidor_de_eco.programa.enviar_senal(signal.SIGTERM)
    assert servidor_de_eco.programa.acabar() == 0
    cliente.escribir('¿sigues?\n')
    assert cliente.acabar() == 1
    assert 'Se ha cortado la conexión' in cliente.errores and 'Traceback' not in cliente.errores


class PantallaDePruebas:
    """Una persona que escribe unas líneas, y lo que ve."""

    hay_persona = True

    def __init__(self, *lineas):
        self.lineas, self.dicho, self.mostrado = list(lineas), [], []
        self.decir = self.dicho.append

    def preguntar(self, _):
        return self.lineas.pop(0) if self.lineas else None

    def mostrar(self, linea, _):
        self.mostrado.append(linea)


def test_un_servidor_que_no_contesta_se_da_por_perdido():
    pantalla = PantallaDePruebas('hola', 'adiós')
    with socket.create_server(('127.0.0.1', 0)) as mudo:
        assert eco.medir_eco(mudo.getsockname(), AjustesCliente(plazo_respuesta=0.05), pantalla) == 1
    assert pantalla.mostrado == [] and 'no hay respuesta' in pantalla.dicho[-1] and pantalla.lineas == ['adiós']


def test_lo_que_vuelve_cambiado_se_dice():
    pantalla = PantallaDePruebas('hola')
    with socket.create_server(('127.0.0.1', 0)) as otro:
        def responder():
            conexion, _ = otro.accept()
            with conexion:
                conexion.recv(100)
                conexion.sendall(b'adi\x1b\n')
        hilo = threading.Thread(target=responder, daemon=True)
        hilo.start()
        assert eco.medir_eco(otro.getsockname(), AjustesCliente(), pantalla) == 0
        hilo.join(PLAZO)
    assert re.fullmatch(r'adi \(\d+,\d\d ms, y no es lo que se envió: ¿es un servidor de eco\?\)', pantalla.mostrado[0])
