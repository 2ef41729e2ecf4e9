"""Lo que ve y teclea una persona: el aspecto, sin terminal, y `cliente.py` en una pseudoterminal."""

import datetime
import os
import re
import signal
import socket

import pytest

import protocolo
import terminal
from tests.procesos import puerto_libre_de_clase
from tests.utiles import PLAZO

if os.name != 'nt':
    import termios

solo_posix = pytest.mark.skipif(os.name == 'nt', reason='usa pseudoterminales o señales de POSIX')

IZQUIERDA, INICIO = '\x1b[D', '\x1b[H'


# ── El aspecto ───────────────────────────────────────────────────────────────────────────────────────────────────

def test_los_colores_se_leen_sobre_negro_y_sobre_blanco():
    def luminancia(color):
        niveles = (0, 95, 135, 175, 215, 255)
        partes = (niveles[(color - 16) // 36], niveles[(color - 16) // 6 % 6], niveles[(color - 16) % 6])
        lineal = [v / 255 / 12.92 if v / 255 <= 0.03928 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in partes]
        return 0.2126 * lineal[0] + 0.7152 * lineal[1] + 0.0722 * lineal[2]

    for color in terminal.PALETA:
        assert min(1.05 / (luminancia(color) + 0.05), (luminancia(color) + 0.05) / 0.05) >= 3, color


def test_un_dia_nuevo_se_dice_una_vez():
    hora = [datetime.datetime(2026, 11, 21, 23, 59)]
    vestuario = terminal.Vestuario(color=False, ahora=lambda: hora[0])
    assert vestuario.vestir('[ana] hola', 'luis') == ['23:59 [ana] hola']
    hora[0] = datetime.datetime(2026, 11, 22, 0, 1)
    assert vestuario.vestir('[ana] hola', 'luis') == ['— domingo, 22 de noviembre de 2026 —', '00:01 [ana] hola']
    assert vestuario.vestir('* luis entró.', 'luis') == ['00:01 * luis entró.']


@pytest.mark.parametrize('texto, si', [
    ('hola luis', True), ('LUIS: ven', True), ('¿luis?', True), ('luisa', False), ('san-luis', False),
    ('luis_2', False), ('', False)])
def test_nombrar_es_decir_el_nick_entero(texto, si):
    assert terminal.nombra(texto, 'luis') is si


def test_lo_que_te_nombra_o_es_privado_toca_la_campana_una_vez():
    vestuario = terminal.Vestuario(color=True)
    for linea, campanas in (('[ana] hola luis, luis', 1), ('[ana] hola', 0), ('[ana] (privado) hola', 1),
                            ('* luis entró.', 0)):
        assert ''.join(vestuario.vestir(linea, 'luis')).count('\a') == campanas


def test_los_nicks_se_aprenden_de_lo_que_se_ve():
    assert protocolo.presencia('[ana] hola') == (['ana'], [])
    assert protocolo.presencia(protocolo.aviso_entra('ana')) == (['ana'], [])
    assert protocolo.presencia(protocolo.aviso_sale('ana')) == ([], ['ana'])
    assert protocolo.presencia(protocolo.aviso_cambio('ana', 'eva')) == (['eva'], ['ana'])
    assert protocolo.presencia('* Hola, luis. Están ana, eva y 3 más. /ayuda dice') == (['ana', 'eva'], [])
    assert protocolo.presencia('* Está ana.') == (['ana'], [])
    assert protocolo.presencia('* Hola, luis. No hay nadie más. /ayuda dice') == ([], [])


# ── La pantalla ──────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def luis(arrancar, lanzar):
    """Un cliente en una terminal, ya dentro de la sala. `luis.puerto`, para que entren los demás."""
    def nuevo(*argumentos, **opciones):
        _, puerto = arrancar()
        proceso = lanzar('cliente.py', '--puerto', puerto, '--nick', 'luis', *argumentos, terminal=True, **opciones)
        proceso.puerto = puerto
        proceso.esperar('Hola, luis')
        return proceso
    return nuevo


def charlar(ana, cuantos, texto='frase número'):
    ana.enviar(''.join(f'{texto} {numero}\n' for numero in range(cuantos)).encode())


@solo_posix
def test_lo_que_se_escribe_no_se_mueve_aunque_lleguen_mensajes(luis, vecino):
    luis, ana = (proceso := luis()), vecino(proceso.puerto, 'ana')
    luis.escribir('buenos 漢字 días' + IZQUIERDA * 5)
    luis.ver(lambda p: p.ultima() == '[luis] buenos 漢字 días' and p.x == len('[luis] buenos 漢字') + 2)
    fila = luis.pantalla.ultima()
    for tanda in range(10):
        charlar(ana, 20, f'tanda {tanda}')
        luis.escribir('!')
        luis.ver(lambda p: p.contiene(f'tanda {tanda} 19') and p.ultima().count('!') == tanda + 1)
    assert luis.pantalla.ultima() == '[luis] buenos 漢字' + '!' * 10 + ' días'
    assert luis.pantalla.x == len('[luis] buenos 漢字') + 2 + 10
    assert fila not in luis.pantalla.filas()[:-1]


@solo_posix
def test_lo_que_se_va_por_arriba_queda_en_la_memoria_de_la_terminal_en_orden_y_entero(luis, vecino):
    luis, ana = (proceso := luis(alto=8)), vecino(proceso.puerto, 'ana')
    luis.escribir('a medias')
    charlar(ana, 300)
    luis.ver(lambda p: p.contiene('frase número 299') and p.ultima() == '[luis] a medias')
    vistas = [fila.split('] ')[1] for fila in luis.pantalla.todo() if 'frase' in fila]
    assert vistas == [f'frase número {numero}' for numero in range(300)]


@solo_posix
def test_una_linea_mas_larga_que_la_ventana_se_desplaza_sin_saltar(luis, vecino):
    luis, ana = (proceso := luis(ancho=40, alto=10)), vecino(proceso.puerto, 'ana')
    texto = ''.join(f'{numero:03}漢 ' for numero in range(20))
    luis.escribir(texto)
    luis.ver(lambda p: p.ultima().endswith('019漢'))
    charlar(ana, 1, 'encima')
    luis.ver(lambda p: p.contiene('encima 0') and p.ultima().endswith('019漢'))
    luis.escribir(INICIO)
    luis.ver(lambda p: p.ultima().startswith('[luis] 000漢 ') and p.x == len('[luis] '))
    luis.escribir('\n')
    ana.esperar('[luis] ' + texto.rstrip())


@solo_posix
@pytest.mark.parametrize('ancho, alto', [(30, 8), (120, 40), (20, 5)])
def test_al_cambiar_de_tamano_la_linea_sigue_entera_en_la_ultima_fila(luis, vecino, ancho, alto):
    luis, ana = (proceso := luis()), vecino(proceso.puerto, 'ana')
    luis.escribir('a medias')
    luis.ver(lambda p: p.ultima().endswith('a medias'))
    luis.redimensionar(ancho, alto)
    charlar(ana, alto + 3)
    luis.ver(lambda p: f'número {alto + 2}' in ''.join(p.todo()) and p.ultima().endswith('a medias'))
    luis.escribir(' y acabo\n')
    ana.esperar('[luis] a medias y acabo')


@solo_posix
def test_ctrl_z_devuelve_la_terminal_y_fg_la_recupera_con_lo_escrito(luis, vecino):
    luis, ana = (proceso := luis(con_trabajos=True)), vecino(proceso.puerto, 'ana')
    crudo = termios.tcgetattr(luis.esclavo)
    luis.escribir('a medias')
    luis.ver(lambda p: p.ultima().endswith('a medias'))
    luis.escribir('\x1a')
    luis.ver(lambda p: p.contiene(' icanon ') and p.contiene(' echo ') and p.modos == set())
    charlar(ana, 3, 'mientras')
    luis.escribir('\n')
    luis.ver(lambda p: p.contiene('mientras 2') and p.ultima() == '[luis] a medias')
    assert termios.tcgetattr(luis.esclavo) == crudo
    luis.escribir('\x03')
    luis.ver(lambda p: p.contiene('Hasta luego.'))


@solo_posix
def test_tab_completa_nicks_y_comandos(luis, vecino):
    luis, ana = (proceso := luis()), vecino(proceso.puerto, 'anastasia')
    luis.ver(lambda p: p.contiene('anastasia entró'))
    luis.escribir('ana\t')
    luis.ver(lambda p: p.ultima() == '[luis] anastasia:')
    luis.escribir('\x15/pri\tANA\thola\n')
    ana.esperar('[luis] (privado) hola')
    ana.cerrar()
    luis.ver(lambda p: p.contiene('anastasia salió'))
    luis.escribir('ana\t.')
    luis.ver(lambda p: p.ultima() == '[luis] ana.')


@solo_posix
def test_cada_cosa_tiene_su_aspecto(luis, vecino):
    luis, ana = (proceso := luis(ancho=120)), vecino(proceso.puerto, 'ana')
    luis.escribir('digo algo\n')
    ana.esperar('[luis] digo algo')
    ana.decir('uno')
    ana.decir('oye luis')
    ana.decir('/privado luis secreto')
    luis.ver(lambda p: p.contiene('secreto'))
    pantalla = luis.pantalla
    color = f'38;5;{terminal.color_de("ana")}'
    assert color in pantalla.estilo_de('[ana] uno') and pantalla.estilo_de('uno') == ''
    assert pantalla.estilo_de('oye luis') and pantalla.estilo_de('(privado)')
    assert pantalla.estilo_de('[luis] digo') != pantalla.estilo_de('[ana] uno')
    assert pantalla.estilo_de('* ana entró') != ''
    assert pantalla.campanas == 2
    assert all(re.match(r'\d\d:\d\d ', fila) for fila in pantalla.filas()[:-1] if fila)


@solo_posix
def test_el_estado_se_ve_conectando_sin_conexion_con_su_cuenta_y_lo_que_espera(arrancar, lanzar):
    puerto = puerto_libre_de_clase()
    proceso, _ = arrancar(puerto=puerto)
    luis = lanzar('cliente.py', '--puerto', puerto, '--nick', 'luis', terminal=True)
    luis.ver(lambda p: p.ultima() == '[luis]')
    proceso.enviar_senal(signal.SIGTERM)
    luis.ver(lambda p: p.ultima().startswith('[sin conexión, ') and ' s]' in p.ultima())
    luis.escribir('una\ndos\n')
    luis.ver(lambda p: ', 2 por enviar]' in p.ultima())
    proceso.acabar()
    arrancar(puerto=puerto)
    luis.ver(lambda p: p.ultima() == '[luis]')


@solo_posix
@pytest.mark.parametrize('marcas', [('', ''), ('\x1b[200~', '\x1b[201~')], ids=['a secas', 'con marcas'])
def test_pegar_cuarenta_lineas_envia_cuarenta_mensajes_en_orden(luis, vecino, marcas):
    luis, ana = (proceso := luis()), vecino(proceso.puerto, 'ana')
    lineas = [f'línea {numero}' for numero in range(40)]
    luis.escribir(marcas[0] + '\r'.join(lineas) + '\r' + marcas[1] + 'y sigo')
    ana.esperar('[luis] línea 39')
    assert [linea[7:] for linea in ana.lineas if linea.startswith('[luis]')] == lineas
    luis.ver(lambda p: p.ultima().endswith('y sigo'))


@solo_posix
def test_un_pegado_que_el_servidor_frena_no_para_el_teclado(lanzar, vecino):
    proceso = lanzar('server.py', '--puerto', 0, '--ritmo', 1)
    proceso.esperar('Escuchando en ')
    puerto = int(proceso.salida.split(':')[1].split()[0])
    luis = lanzar('cliente.py', '--puerto', puerto, '--nick', 'luis', terminal=True)
    luis.esperar('Hola, luis')
    luis.escribir(''.join(f'{numero:04} {"x" * 190}\r' for numero in range(900)) + 'sigo escribiendo')
    luis.ver(lambda p: p.ultima().endswith('sigo escribiendo'))
    luis.escribir('\x03')
    assert luis.acabar() == 0


@solo_posix
def test_una_linea_de_201_caracteres_vuelve_para_acortarla(luis, vecino):
    luis, ana = (proceso := luis(ancho=300)), vecino(proceso.puerto, 'ana')
    luis.escribir('ñ' * 201 + '\n')
    luis.ver(lambda p: p.contiene('tiene 201 caracteres') and p.ultima() == '[luis] ' + 'ñ' * 201)
    luis.escribir('\x7f\n')
    ana.esperar('[luis] ' + 'ñ' * 200)


# ── Sin cursor, sin color, o sin sitio ───────────────────────────────────────────────────────────────────────────

@solo_posix
@pytest.mark.parametrize('argumentos, entorno', [(['--simple'], {}), ([], {'TERM': 'dumb'})])
def test_sin_cursor_no_sale_ni_una_orden(luis, vecino, argumentos, entorno):
    luis = luis(*argumentos, entorno=entorno)
    ana = vecino(luis.puerto, 'ana')
    ana.decir('hola luis')
    luis.esperar('[ana] hola luis')
    luis.escribir('hola\n/salir\n')
    ana.esperar('[luis] hola')
    assert luis.acabar() == 0
    assert '\x1b' not in luis.salida


@solo_posix
@pytest.mark.parametrize('argumentos, entorno', [(['--sin-color'], {}), ([], {'NO_COLOR': '1'})])
def test_sin_color_hay_cursor_pero_no_colores(luis, vecino, argumentos, entorno):
    luis = luis(*argumentos, entorno=entorno)
    vecino(luis.puerto, 'ana').decir('hola luis')
    luis.ver(lambda p: p.contiene('[ana] hola luis') and p.ultima() == '[luis]')
    assert 'm' not in {orden[-1] for orden in re.findall(r'\x1b\[[?0-9;]*[@-~]', luis.salida)}


@solo_posix
def test_veinte_columnas_bastan(luis, vecino):
    luis = luis(ancho=20, alto=6)
    ana = vecino(luis.puerto, 'ana')
    luis.escribir('esto no cabe en veinte columnas')
    luis.ver(lambda p: p.ultima().endswith('columnas') and len(p.ultima()) < 20)
    ana.decir('hola, ¿qué tal por ahí?')
    luis.ver(lambda p: '¿qué tal por ahí?' in ''.join(p.todo()) and p.ultima().endswith('columnas'))
    luis.escribir('\n')
    ana.esperar('[luis] esto no cabe en veinte columnas')


def test_por_una_tuberia_no_sale_ni_un_escape(arrancar, lanzar, vecino):
    _, puerto = arrancar()
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot')
    bot.esperar('Hola, bot')
    vecino(puerto, 'ana').decir('hola bot')
    bot.esperar('[ana] hola bot')
    assert '\x1b' not in bot.todo and '\a' not in bot.todo


# ── Lo que llega de la red, y el final ───────────────────────────────────────────────────────────────────────────

@solo_posix
def test_un_servidor_malicioso_no_mueve_el_cursor_ni_cambia_el_titulo(lanzar):
    with socket.create_server(('127.0.0.1', 0)) as trampa:
        trampa.settimeout(PLAZO)
        luis = lanzar('cliente.py', '--puerto', trampa.getsockname()[1], '--nick', 'luis', terminal=True)
        conexion, _ = trampa.accept()
        with conexion:
            conexion.sendall('#SESION 0 nueva\n1 * Tu nick es luis\n2 [\x1b[2Jmalo] \x1b]0;título\x07\x1b[31m\x1b[10;10H\x9b2J\u202efin\n'
                             '[ana] adiós\n'.encode())
            luis.ver(lambda p: p.contiene('[ana] adiós') and p.ultima() == '[luis]')
            assert luis.pantalla.otras == [] and luis.pantalla.campanas == 0
            assert luis.pantalla.contiene('[[2Jmalo] ]0;título[31m[10;10H2Jfin')
            assert '31;' not in luis.pantalla.estilo_de('fin')


@solo_posix
@pytest.mark.parametrize('despedida', ['/salir\n', '#LOGOUT\n', '\x03', '\x04', signal.SIGTERM, signal.SIGHUP],
                         ids=['/salir', '#LOGOUT', 'Ctrl+C', 'Ctrl+D', 'SIGTERM', 'SIGHUP'])
def test_acabe_como_acabe_la_terminal_queda_como_estaba(arrancar, lanzar, despedida):
    _, puerto = arrancar()
    luis = lanzar('cliente.py', '--puerto', puerto, terminal=True)
    luis.esperar('Nick:')
    luis.escribir('luis\n')
    luis.ver(lambda p: p.ultima() == '[luis]')
    assert termios.tcgetattr(luis.esclavo) != luis.modo_inicial and '?2004' in luis.pantalla.modos
    luis.enviar_senal(despedida) if isinstance(despedida, signal.Signals) else luis.escribir(despedida)
    assert luis.acabar() == 0
    luis.ver(lambda p: p.contiene('Hasta luego.') and p.x == 0)
    assert termios.tcgetattr(luis.esclavo) == luis.modo_inicial
    assert luis.pantalla.modos == set() and luis.pantalla._estilo == ''
    assert not any(fila.startswith('[luis]') for fila in luis.pantalla.filas())


@solo_posix
def test_si_se_cierra_la_ventana_termina(luis, vecino):
    luis = luis()
    ana = vecino(luis.puerto, 'ana')
    luis.cerrar_ventana()
    ana.esperar('* luis salió.')
    assert luis.acabar() == 0


@solo_posix
def test_una_excepcion_tambien_deja_la_terminal_como_estaba(lanzar, tmp_path, arrancar):
    _, puerto = arrancar()
    guion = tmp_path / 'falla.py'
    guion.write_text('import cliente, sys\n'
                     'def falla(*_): raise RuntimeError("a propósito")\n'
                     'cliente.Charla.despedirse = falla\n'
                     f'sys.exit(cliente.main(["--puerto", "{puerto}"]))\n')
    proceso = lanzar(guion, terminal=True, entorno={'PYTHONPATH': str(terminal.__file__.rsplit(os.sep, 1)[0])})
    proceso.esperar('Nick:')
    proceso.escribir('luis\n')
    proceso.ver(lambda p: p.ultima() == '[luis]')
    proceso.escribir('\x03')
    assert proceso.acabar() == 1
    assert termios.tcgetattr(proceso.esclavo) == proceso.modo_inicial
    proceso.ver(lambda p: p.modos == set() and p.contiene('a propósito'))
