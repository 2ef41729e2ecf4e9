"""`cliente.py` como lo usa una persona (pseudoterminal) y como lo usa un guion (tuberías)."""

import contextlib
import os
import signal
import socket
import threading
import types

import pytest

import cliente
import config
import terminal
from emisor import Emisor
from receptor import Receptor
from tests.procesos import puerto_libre_de_clase
from tests.utiles import esperar_a

if os.name != 'nt':
    import termios

solo_posix = pytest.mark.skipif(os.name == 'nt', reason='usa pseudoterminales o señales de POSIX')


# ── Preguntas ────────────────────────────────────────────────────────────────────────────────────────────────────

def test_las_preguntas_se_contestan_desde_una_tuberia(arrancar, lanzar, vecino):
    _, puerto = arrancar(puerto=puerto_libre_de_clase())
    ana = vecino(puerto, 'ana')
    luis = lanzar('cliente.py')
    luis.escribir(f'{puerto}\nluis\nhola, ñ 漢字 😀\n')
    luis.cerrar_entrada()
    assert luis.acabar() == 0
    ana.esperar('[luis] hola, ñ 漢字 😀')
    ana.esperar('* luis salió.')


def test_con_opciones_no_se_pregunta_nada(arrancar, lanzar):
    _, puerto = arrancar()
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot')
    bot.cerrar_entrada()
    assert bot.acabar() == 0
    assert 'Puerto' not in bot.todo and 'Nick:' not in bot.todo


@pytest.mark.parametrize('texto, puerto', [('', 5000), ('0', 5000), ('1', 1), ('5000', 5000), ('0080', 80)])
def test_la_pregunta_del_puerto_admite_de_0_a_5000(texto, puerto):
    assert cliente.comprobar_puerto(texto) == puerto


@pytest.mark.parametrize('texto', ['5001', '-1', 'abc', '5 0', '1e3', '٣', '4999.5', '99999999999999999999'])
def test_otro_puerto_se_rechaza_diciendo_por_que(texto):
    with pytest.raises(ValueError, match='de 0 a 5000'):
        cliente.comprobar_puerto(texto)


@pytest.mark.parametrize('texto', ['', 'a b', 'a' * 21, '[ana]', '*', 'ana!'])
def test_un_nick_que_no_vale_se_rechaza_con_la_regla(texto):
    with pytest.raises(ValueError, match='de 1 a 20'):
        cliente.comprobar_nick(texto)


@pytest.mark.parametrize('texto', ['ana', 'Íñigo_2', 'x', 'a.b-c', '李', 'n\u0303andu'])
def test_un_nick_correcto_se_acepta(texto):
    assert cliente.comprobar_nick(texto)


def test_tras_una_respuesta_mala_se_pregunta_otra_vez(lanzar):
    proceso = lanzar('cliente.py')
    proceso.escribir('abc\n5001\n')
    proceso.esperar('«abc» no vale')
    proceso.esperar('«5001» no vale')
    proceso.esperar('Puerto (de 0 a 5000', veces=3)
    proceso.escribir('1\nmi nick\n')
    proceso.esperar('«mi nick» no vale: un nick tiene de 1 a 20')
    proceso.esperar('Nick:', veces=2)
    proceso.escribir('salir\n')
    assert proceso.acabar() == 0


@pytest.mark.parametrize('respuesta', ['salir', 'SALIR', '/salir', '#logout', '#LOGOUT', None])
@pytest.mark.parametrize('antes', ['', '4000\n'])
def test_salir_en_una_pregunta_termina_con_educacion(lanzar, antes, respuesta):
    proceso = lanzar('cliente.py')
    proceso.escribir(antes + (respuesta + '\n' if respuesta else ''))
    proceso.cerrar_entrada()
    assert proceso.acabar() == 0
    assert 'Hasta luego' in proceso.errores and 'Traceback' not in proceso.todo


@solo_posix
@pytest.mark.parametrize('tecla', ['\x03', '\x04'], ids=['Ctrl+C', 'Ctrl+D'])
@pytest.mark.parametrize('antes', ['', '4000\n'])
def test_ctrl_c_y_ctrl_d_en_una_pregunta_terminan_con_educacion(lanzar, antes, tecla):
    proceso = lanzar('cliente.py', terminal=True)
    proceso.esperar('Puerto')
    proceso.escribir(antes)
    if antes:
        proceso.esperar('Nick:')
    proceso.escribir(tecla)
    assert proceso.acabar() == 0
    proceso.esperar('Hasta luego')
    assert 'Traceback' not in proceso.todo


def test_un_nick_malo_en_las_opciones_es_un_error(lanzar):
    proceso = lanzar('cliente.py', '--puerto', 1, '--nick', 'mi nick')
    assert proceso.acabar() == 2
    assert 'un nick tiene' in proceso.errores


# ── Irse ─────────────────────────────────────────────────────────────────────────────────────────────────────────

@solo_posix
@pytest.mark.parametrize('despedida', ['#LOGOUT\n', '/salir\n', '#logout\n', '\x03', '\x04', signal.SIGTERM],
                         ids=['#LOGOUT', '/salir', '#logout', 'Ctrl+C', 'Ctrl+D', 'SIGTERM'])
def test_toda_forma_de_irse_se_despide_y_deja_la_terminal_como_estaba(arrancar, lanzar, vecino, despedida):
    _, puerto = arrancar()
    ana = vecino(puerto, 'ana')
    luis = lanzar('cliente.py', '--puerto', puerto, '--nick', 'luis', terminal=True)
    luis.esperar('Tu nick es luis')
    luis.escribir('hola\n')
    ana.esperar('[luis] hola')
    if isinstance(despedida, str):
        luis.escribir(despedida)
    else:
        luis.enviar_senal(despedida)
    assert luis.acabar() == 0
    ana.esperar('* luis salió.')
    luis.esperar('* Hasta luego, luis.')    # lo dice el servidor: se enteró
    luis.esperar('Hasta luego.')
    assert 'Traceback' not in luis.todo
    assert termios.tcgetattr(luis.esclavo) == luis.modo_inicial


@solo_posix
def test_irse_sin_conexion_no_espera(lanzar):
    luis = lanzar('cliente.py', '--puerto', 1, '--nick', 'luis', terminal=True)
    luis.esperar('No hay ningún servidor')
    luis.escribir('esto no saldrá\n/salir\n')
    assert luis.acabar() == 0
    luis.esperar('Líneas que no consta que hayan llegado: 1.')


@solo_posix
def test_no_queda_ningun_hilo_al_terminar(arrancar, monkeypatch):
    _, puerto = arrancar()
    antes = threading.active_count()

    monkeypatch.setattr('sys.stdin', None)
    charla = cliente.Charla(config.AjustesCliente(), puerto, 'luis', terminal.Llana(1000))
    charla.empezar()
    assert charla.fin.wait(20)
    assert charla.terminar() == 0
    assert threading.active_count() == antes


# ── Lo que un hilo cuenta al otro ────────────────────────────────────────────────────────────────────────────────

class PantallaDePruebas:
    """Una entrada en la que alguien responde a lo que se le acaba de enseñar."""

    hay_persona = agotada = False

    def __init__(self, fin, antes_de_leer=None):
        self._fin, self._antes_de_leer, self.dicho = fin, antes_de_leer, []
        self._lectura, self._escritura = socket.socketpair()
        self._escritura.send(b'!')
        self.fileno = self._lectura.fileno

    def leidas(self):
        return []

    def leer(self):
        return [self._antes_de_leer()]

    def decir(self, texto):
        self.dicho.append(texto)
        self._fin.set()

    def repetir(self, texto, nick):
        self._fin.set()

    def refrescar(self, pregunta):
        pass

    def devolver(self, texto):
        pass

    def mostrar(self, linea, nick):
        self.dicho.append(linea)

    def close(self):
        self._lectura.close()
        self._escritura.close()


def test_a_lo_que_se_teclea_se_le_quita_el_prefijo_del_nick_que_ya_se_ha_visto():
    def responder():
        emisor.contar(emisor.al_llamarse, 'bot_2')
        return '[bot_2] ' + 'x' * 200       # con el prefijo sería demasiado largo

    fin = threading.Event()
    with contextlib.closing(PantallaDePruebas(fin, responder)) as pantalla:
        emisor = Emisor(config.AjustesCliente(), 'bot', pantalla, fin)
        emisor.enviar()
        assert emisor.terminar() == 1 and emisor.codigo == 0 and pantalla.dicho == []


def test_quien_se_va_en_cuanto_ve_que_ha_entrado_se_despide():
    def responder():
        emisor.contar(emisor.al_conectar, conexion)
        emisor.contar(emisor.al_entrar, 0, False)
        return '/salir'

    def oir():
        oido.append(servidor.recv(100))
        emisor.contar(emisor.al_despedirse)

    fin, oido = threading.Event(), []
    conexion, servidor = socket.socketpair()
    with conexion, servidor, contextlib.closing(PantallaDePruebas(fin, responder)) as pantalla:
        pantalla.hay_persona = True
        emisor = Emisor(config.AjustesCliente(), 'bot', pantalla, fin)
        hilo = threading.Thread(target=oir)
        hilo.start()
        emisor.enviar()     # al acabar apaga la conexión: quien oye no se queda esperando
        hilo.join()
        emisor.terminar()
    assert oido == [b'#LOGOUT\n']


def test_de_los_nicks_se_cuenta_solo_lo_nuevo():
    contado = []
    emisor = types.SimpleNamespace(al_ver='al_ver', contar=lambda *suceso: contado.append(suceso))
    fin = threading.Event()
    with contextlib.closing(PantallaDePruebas(fin)) as pantalla:
        receptor = Receptor(config.AjustesCliente(), 1, 'ana', pantalla, fin, emisor)
        lineas = ['* luis entró.', '[luis] hola', '[eva] hola', '[luis] ¿qué tal?', '* luis salió.', '* beto entró.']
        for linea in lineas:
            receptor._atender_linea(linea)
        assert pantalla.dicho == lineas
    assert contado == [('al_ver', ['luis'], []), ('al_ver', ['eva'], []), ('al_ver', [], ['luis']),
                       ('al_ver', ['beto'], [])]


# ── Sin servidor, y cuando vuelve ────────────────────────────────────────────────────────────────────────────────

def test_sin_servidor_lo_dice_y_se_rinde_con_codigo_1_si_la_entrada_es_una_tuberia(lanzar):
    bot = lanzar('cliente.py', '--puerto', 1, '--nick', 'bot', '--espera', 2)
    bot.escribir('hola\n')
    bot.cerrar_entrada()
    assert bot.acabar() == 1
    assert 'python server.py --puerto 1' in bot.errores
    assert 'Líneas que no consta que hayan llegado: 1.' in bot.errores
    assert bot.salida == ''


def test_una_maquina_que_no_existe_se_explica(lanzar):
    bot = lanzar('cliente.py', '--host', 'no.existe.invalid', '--puerto', 1, '--nick', 'bot', '--espera', 0)
    bot.cerrar_entrada()
    assert bot.acabar() == 1
    assert 'No encuentro la máquina «no.existe.invalid»' in bot.errores


def test_el_cliente_espera_al_servidor_que_aun_no_esta(arrancar, lanzar, vecino):
    puerto = puerto_libre_de_clase()
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot', '--espera', 60)
    bot.escribir('esto se escribió antes\n')
    bot.esperar('No hay ningún servidor')
    arrancar('--mostrar', puerto=puerto)[0].esperar('[bot] esto se escribió antes')


@solo_posix
def test_tras_reiniciar_el_servidor_vuelven_los_tres_y_llega_lo_escrito(arrancar, lanzar):
    puerto = puerto_libre_de_clase()
    primero, _ = arrancar(puerto=puerto)
    nicks = ('ana', 'luis', 'eva')
    clientes = [lanzar('cliente.py', '--puerto', puerto, '--nick', nick, terminal=True) for nick in nicks]
    for uno, nick in zip(clientes, nicks):
        uno.esperar(f'* Tu nick es {nick}')
    primero.enviar_senal(signal.SIGTERM)
    assert primero.acabar() == 0
    for uno in clientes:
        uno.esperar('Se ha cortado la conexión')
    clientes[0].escribir('sigo aquí\ny escribo\n')
    segundo, _ = arrancar('--mostrar', puerto=puerto)
    for nick in nicks:
        segundo.esperar(f'+ {nick} (')
    segundo.esperar('[ana] sigo aquí\n[ana] y escribo')
    for uno in clientes[1:]:
        uno.ver(lambda pantalla: pantalla.contiene('[ana] y escribo'))


@solo_posix
def test_sin_conexion_se_guardan_las_ultimas_mil_lineas(arrancar, lanzar):
    puerto = puerto_libre_de_clase()
    luis = lanzar('cliente.py', '--puerto', puerto, '--nick', 'luis', terminal=True)
    luis.esperar('No hay ningún servidor')
    for numero in range(1100):
        luis.escribir(f'línea {numero}\n')
    luis.esperar('Sin conexión solo guardo las últimas 1000 líneas')
    luis.escribir('última\n')
    proceso, _ = arrancar('--mostrar', puerto=puerto)
    proceso.esperar('[luis] última')
    dichas = [linea for linea in proceso.salida.splitlines() if linea.startswith('[luis]')]
    assert dichas == [f'[luis] línea {numero}' for numero in range(101, 1100)] + ['[luis] última']


def test_el_nick_de_la_vuelta_es_el_ultimo_confirmado(arrancar, lanzar):
    puerto = puerto_libre_de_clase()
    primero, _ = arrancar(puerto=puerto)
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot', '--espera', 60)
    bot.escribir('/nick robot\n')
    bot.esperar('* Tu nick es robot')
    primero.enviar_senal(signal.SIGTERM)
    primero.acabar()
    arrancar(puerto=puerto)[0].esperar('+ robot (')


# ── Lo que se escribe y lo que se muestra ────────────────────────────────────────────────────────────────────────

def test_lo_largo_se_rechaza_con_su_longitud_y_lo_vacio_no_se_envia(arrancar, lanzar, vecino):
    _, puerto = arrancar()
    ana = vecino(puerto, 'ana')
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot')
    bot.escribir('ñ' * 200 + '\n' + 'x' * 201 + '\n\n   \n\t\nfin\n')
    ana.esperar('[bot] fin')
    assert [linea for linea in ana.lineas if linea.startswith('[bot]')] == ['[bot] ' + 'ñ' * 200, '[bot] fin']
    bot.esperar('tiene 201 caracteres y el límite es 200')


def test_no_se_pierde_ninguna_linea_de_un_archivo_largo(arrancar, lanzar, vecino):
    _, puerto = arrancar()
    ana = vecino(puerto, 'ana')
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot')
    lineas = [f'línea {numero}' for numero in range(5000)]
    bot.escribir('\n'.join(lineas))     # la última, sin fin de línea
    bot.cerrar_entrada()
    assert bot.acabar() == 0
    ana.esperar('* bot salió.')
    assert [linea[6:] for linea in ana.lineas if linea.startswith('[bot] ')] == lineas


def test_lo_recibido_sale_enseguida_por_la_tuberia_y_solo_eso(arrancar, lanzar, vecino):
    _, puerto = arrancar()
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot')
    bot.esperar('Hola, bot')
    ana = vecino(puerto, 'ana')
    ana.decir('¿me lees?')
    bot.esperar('[ana] ¿me lees?')
    assert bot.salida.splitlines()[-2:] == ['* ana entró.', '[ana] ¿me lees?']
    assert all(linea.startswith(('* ', '[')) for linea in bot.salida.splitlines())


@solo_posix
def test_si_nadie_lee_su_salida_termina_sin_ruido(arrancar, lanzar, vecino):
    _, puerto = arrancar()
    ana = vecino(puerto, 'ana')
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot', sin_lector=True)
    ana.decir('¿hay alguien?')      # por si lo primero lo escribió antes de que se cerrara
    ana.esperar('* bot salió.')
    assert bot.acabar() == 0
    assert 'Traceback' not in bot.errores and 'BrokenPipe' not in bot.errores


def test_una_linea_descomunal_no_llena_la_memoria():
    lineas = cliente.protocolo.Lineas(100)
    assert lineas.recibir(b'hola\n' + b'x' * 101) == ['hola']
    assert lineas.rebosa


# ── Salas con clave ──────────────────────────────────────────────────────────────────────────────────────────────

CLAVE = 'la ñandú'


@pytest.fixture
def con_clave(lanzar):
    """El puerto de una sala con clave, y el proceso de su servidor."""
    proceso = lanzar('server.py', '--puerto', 0, '--mostrar', entorno={'CHAT_CLAVE': CLAVE})
    proceso.esperar('Escuchando en ')
    return int(proceso.salida.split(':')[1].split()[0]), proceso


@solo_posix
@pytest.mark.parametrize('opciones', [(), ('--simple',)])
def test_la_clave_se_pregunta_y_no_se_ve(con_clave, lanzar, opciones):
    puerto, servidor = con_clave
    luis = lanzar('cliente.py', '--puerto', puerto, '--nick', 'luis', *opciones, terminal=True)
    luis.esperar('Esta sala tiene clave')
    luis.escribir('mala\n')
    luis.esperar('* Clave incorrecta.')
    luis.esperar('Esta sala tiene clave', veces=2)
    luis.escribir(CLAVE + '\n')
    luis.esperar('Tu nick es luis')
    luis.escribir('ya estoy\n')
    servidor.esperar('[luis] ya estoy')
    luis.escribir('/salir\n')
    assert luis.acabar() == 0
    assert CLAVE not in luis.todo and 'mala' not in luis.todo and 'ya estoy' in luis.todo
    assert CLAVE not in servidor.todo
    assert termios.tcgetattr(luis.esclavo) == luis.modo_inicial


@solo_posix
@pytest.mark.parametrize('opciones', [(), ('--simple',)])
@pytest.mark.parametrize('despedida', ['\x03', '/salir\n'])
def test_irse_en_vez_de_dar_la_clave_deja_la_terminal_como_estaba(con_clave, lanzar, opciones, despedida):
    luis = lanzar('cliente.py', '--puerto', con_clave[0], '--nick', 'luis', *opciones, terminal=True)
    luis.esperar('Esta sala tiene clave')
    luis.escribir(despedida)
    assert luis.acabar() == 0
    assert termios.tcgetattr(luis.esclavo) == luis.modo_inicial


@solo_posix
def test_tras_tres_claves_malas_se_deja(con_clave, lanzar):
    luis = lanzar('cliente.py', '--puerto', con_clave[0], '--nick', 'luis', terminal=True)
    for vez in (1, 2, 3):
        luis.esperar('Esta sala tiene clave', veces=vez)
        luis.escribir('mala\n')
    luis.esperar('Sin la clave de la sala no se puede entrar')
    assert "Se ha cortado" not in luis.todo and "reiniciado" not in luis.todo
    assert luis.acabar() == 1


def test_la_clave_puede_venir_de_la_variable(con_clave, lanzar):
    puerto, servidor = con_clave
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot', entorno={'CHAT_CLAVE': CLAVE})
    bot.escribir('hola\n')
    bot.cerrar_entrada()
    assert bot.acabar() == 0
    servidor.esperar('[bot] hola')


def test_la_clave_puede_ser_la_primera_linea_de_una_tuberia(con_clave, lanzar):
    puerto, servidor = con_clave
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot')
    bot.escribir(f'{CLAVE}\nhola\n')
    bot.cerrar_entrada()
    assert bot.acabar() == 0
    servidor.esperar('[bot] hola')
    assert CLAVE not in servidor.todo


@pytest.mark.parametrize('entorno, entrada', [({'CHAT_CLAVE': 'mala'}, 'hola\n'), ({}, 'mala\nhola\n'), ({}, '')])
def test_sin_la_clave_un_guion_se_rinde_con_codigo_1(con_clave, lanzar, entorno, entrada):
    puerto, servidor = con_clave
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot', entorno=entorno)
    bot.escribir(entrada)
    bot.cerrar_entrada()
    assert bot.acabar() == 1
    assert 'Sin la clave de la sala no se puede entrar' in bot.errores
    assert 'hola' not in servidor.todo


# ── Cortes ───────────────────────────────────────────────────────────────────────────────────────────────────────

@solo_posix
def test_a_un_servidor_que_no_responde_se_le_da_por_perdido_y_se_vuelve(arrancar, lanzar, vecino):
    proceso, puerto = arrancar()
    ana = vecino(puerto, 'ana')
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot', '--espera', 60)
    bot.esperar('Hola, bot')
    proceso.enviar_senal(signal.SIGSTOP)
    try:
        bot.esperar('Se ha cortado la conexión')
    finally:
        proceso.enviar_senal(signal.SIGCONT)
    bot.esperar('Conectado a', veces=2)
    ana.decir('¿sigues?')
    bot.esperar('[ana] ¿sigues?')
    bot.escribir('sigo\n')
    ana.esperar('[bot] sigo')
    assert '* bot salió.' not in ana.lineas


@solo_posix
def test_un_servidor_callado_pero_vivo_no_se_da_por_perdido(arrancar, monkeypatch):
    _, puerto = arrancar()
    lectura, escritura = os.pipe()
    preguntas = []
    with open(lectura) as entrada, open(escritura, 'w'):
        monkeypatch.setattr('sys.stdin', entrada)
        ajustes = config.AjustesCliente(silencio=0.01, plazo_respuesta=20)
        charla = cliente.Charla(ajustes, puerto, 'bot', terminal.Llana(1000))
        preguntar = charla._emisor.al_callar
        charla._emisor.al_callar = lambda: (preguntas.append(charla._emisor._conexion), preguntar())
        charla.empezar()
        esperar_a(lambda: len(preguntas) > 5, 'que pregunte varias veces')
        charla.fin.set()
        charla.terminar()
    assert preguntas[0] is not None and set(preguntas) == {preguntas[0]}


# ── Desacuerdos ──────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('despedida', ['[bot] /salir', '[bot] #LOGOUT'])
def test_despedirse_con_el_prefijo_propio_es_despedirse(arrancar, lanzar, despedida):
    _, puerto = arrancar()
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot')
    bot.escribir(f'uno\n{despedida}\n')
    assert bot.acabar() == 0
    assert '* Hasta luego, bot.' in bot.salida and 'Se ha cortado' not in bot.errores


def test_si_el_servidor_entiende_que_alguien_se_va_no_se_vuelve(arrancar, lanzar):
    _, puerto = arrancar()
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot')
    bot.escribir('/nick otro\n[otro] /salir\n')     # el cliente no sabe aún que ya se llama así
    assert bot.acabar() == 0
    assert '* Hasta luego, otro.' in bot.salida and 'Se ha cortado' not in bot.errores


def test_ante_un_servidor_de_eco_se_dice_lo_que_es(arrancar, lanzar):
    _, puerto = arrancar('--eco')
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot')
    assert bot.acabar() == 1
    assert 'hay un servidor de eco' in bot.errores and '#SESION' not in bot.todo


def test_un_rechazo_se_dice_una_vez_por_mucho_que_se_insista(arrancar, lanzar, vecino):
    servidor, puerto = arrancar('--max-clientes', 1)
    ana = vecino(puerto, 'ana')
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot', '--espera', 60)
    bot.esperar('No he podido entrar.')
    bot.escribir('por fin\n')
    ana.cerrar()
    servidor.esperar('+ bot (')
    bot.cerrar_entrada()
    assert bot.acabar() == 0
    assert bot.todo.count('Sala llena') == 1 and 'Se ha cortado' not in bot.errores


def test_lo_que_se_envia_se_sabe_pronto_si_llego_aunque_otros_no_callen(arrancar, lanzar, vecino):
    servidor, puerto = arrancar('--mostrar')
    ana = vecino(puerto, 'ana')
    bot = lanzar('cliente.py', '--puerto', puerto, '--nick', 'bot', '--espera', 60)
    bot.esperar('Hola, bot')
    bot.escribir('uno\n')
    ana.esperar('[bot] uno')
    servidor_mudo = threading.Event()

    def hablar():
        while not servidor_mudo.wait(0.5):
            with contextlib.suppress(OSError):      # el servidor puede haber muerto ya
                ana.decir('sigo hablando')

    hilo = threading.Thread(target=hablar)
    hilo.start()
    try:
        bot.esperar('sigo hablando', veces=14)      # siete segundos: más que la pregunta, y nunca hubo silencio
        servidor.enviar_senal(signal.SIGKILL if hasattr(signal, 'SIGKILL') else signal.SIGTERM)
        servidor.acabar()
    finally:
        servidor_mudo.set()
        hilo.join()
    otro, _ = arrancar('--mostrar', puerto=puerto)
    otro.esperar('+ bot (')
    bot.escribir('dos\n')
    otro.esperar('[bot] dos')
    assert '[bot] uno' not in otro.salida


def test_un_guion_sabe_por_su_codigo_que_una_linea_no_se_envio(arrancar, lanzar):
    bot = lanzar('cliente.py', '--puerto', arrancar()[1], '--nick', 'bot')
    bot.escribir('corta\n' + 'x' * 201 + '\n')
    bot.cerrar_entrada()
    assert bot.acabar() == 1 and 'Mensaje no enviado: tiene 201' in bot.errores
