"""Clientes de todas las familias en una misma sala: cada promesa, con los de `familias.py`, que no saben del programa."""

import contextlib
import itertools
import os
import re
import select
import signal
import socket
import struct

import pytest

from config import MAX_LINEA, AjustesServidor
from tests.familias import AVISO, DE_LA_SALA, A, B, C, D
from tests.utiles import PLAZO, esperar_a, servidor

SOLO_POSIX = pytest.mark.skipif(os.name == 'nt', reason='Windows no dice qué queda por leer, ni tiene estas señales')

OCHO = ((A, 'ana'), (A, 'abel'), (B, 'berta'), (B, 'blas'), (C, 'carla'), (C, 'ciro'), (D, 'dora'), (D, 'dani'))
CUATRO = OCHO[::2]
PARA_LA_D = {'espera_pregunta': AjustesServidor().espera_pregunta}      # que no habla mientras no le hablen
TEXTOS = ('¿qué tal, año?', '😀 你好 👨‍👩‍👧', '[beto] no soy beto', '* parece un aviso', '12        parece una cabecera',
          '  sangrado', '*', 'x' * 140)


class Reunion:
    """Una sala con gente de cualquier familia, y un testigo que ve todo lo que se dice."""

    def __init__(self, charla, de_uno=False):
        self.charla, self.de_uno, self._pases = charla, de_uno, itertools.count()
        self.testigo, = self.nuevos([(A, 'testigo')])
        self.testigo.entrar()

    def nuevos(self, quienes, **opciones):
        """Clientes que aún no han conectado."""
        nuevos = []
        for familia, nick in quienes:
            envio = {'envia_de_uno': True} if self.de_uno and familia in (A, B) else {}
            nuevos.append(familia(self.charla.direccion, nick, lee_de_uno=self.de_uno, **envio, **opciones))
        self.charla.personas += nuevos
        return nuevos

    def llegan(self, *quienes, **opciones):
        """Conectan todos a la vez; los que tienen que esperar a que se les pregunte esperan juntos."""
        nuevos = self.nuevos(quienes, **opciones)
        for uno in nuevos:
            uno.llegar()
        for uno in nuevos:
            uno.presentarse()
        return nuevos

    def entran(self, *quienes, **opciones):
        """Llegan y entran. Lo siguiente que reciba cualquiera será nuevo."""
        nuevos, saludos = self.llegan(*quienes, **opciones), set()
        for uno in nuevos:
            nick = next(texto for _, texto in uno.bienvenida() if texto.startswith('Tu nick es ')).split()[-1]
            if isinstance(uno, C):      # entra con algo dicho
                saludos.add((nick, 'hola'))
        oir_saludos(self.testigo, saludos)
        self.poner_al_dia(*nuevos)
        return nuevos

    def poner_al_dia(self, *gente):
        pase = f'¿listos? {next(self._pases)}'
        self.testigo.decir(pase, '/usuarios')
        self.testigo.hasta(lambda autor, texto: autor == AVISO and texto.startswith('Están '))
        for uno in gente:
            uno.esperar('testigo', pase)

    def oidos(self, hasta_oir):
        """Lo que el testigo ha visto decir hasta ese par, él incluido."""
        return mensajes(self.testigo.esperar(*hasta_oir))


def oir_saludos(testigo, saludos):
    """Quien entra con algo dicho recibe su bienvenida antes de que los demás lo oigan."""
    while saludos:
        saludos.discard(testigo.siguiente())


@contextlib.contextmanager
def reunion(de_uno=False, **ajustes):
    # De byte en byte se tarda en llegar a una cabecera o a un fin de línea; lo demás llega en una lectura.
    with servidor(**{'espera_marco': 2 if de_uno else 0.1, **PARA_LA_D, **ajustes}) as charla:
        yield Reunion(charla, de_uno)


def mensajes(pares):
    return [par for par in pares if par[0] != AVISO]


def pendiente(enchufe, que):
    import fcntl
    return struct.unpack('i', fcntl.ioctl(enchufe, que, b'\0' * 4))[0]


def esperar_leido(charla, uno):
    """Espera a que el servidor haya leído cuanto `uno` ha enviado: lo siguiente será otra lectura."""
    import termios
    conexion = esperar_a(lambda: [otra for otra in charla.sala.conexiones()
                                  if tuple(otra.direccion) == uno.socket.getsockname()], 'que se le acepte')[0]
    esperar_a(lambda: pendiente(uno.socket, termios.TIOCOUTQ) == 0, 'que llegue')
    esperar_a(lambda: pendiente(conexion.socket, termios.FIONREAD) == 0, 'que se lea')


# ── Conversar ────────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('de_uno', [False, True], ids=['de golpe', 'de byte en byte'])
def test_cada_mensaje_lo_ven_todos_los_demas_entero_una_vez_y_en_el_mismo_orden(de_uno):
    with reunion(de_uno) as sala:
        gente = sala.entran(*OCHO)
        orden = []
        for ronda, texto in enumerate(TEXTOS, 1):
            for uno in gente:
                uno.decir(texto)
            while len(orden) < ronda * len(gente):      # lo crudo, de uno en uno: si no, TCP podría pegarlo
                orden += mensajes([sala.testigo.siguiente()])
        sala.testigo.decir('fin')
        for uno in gente:
            assert uno.esperar('testigo', 'fin')[:-1] == [par for par in orden if par[0] != uno.nick]
            assert [texto for autor, texto in orden if autor == uno.nick] == list(TEXTOS)


def test_lo_de_cada_familia_llega_a_la_b_en_una_sola_pieza():
    with reunion() as sala:
        bea, *gente = sala.entran((B, 'bea'), *OCHO)
        for uno in gente:
            uno.decir('¿lo ves de una vez? ñ')
            assert select.select([bea.socket], [], [], PLAZO)[0]
            # Cuatro lecturas sin esperar, como hace el tutorial: si una no está ya entera, pierde el paso.
            bea.socket.setblocking(False)
            autor, texto = [bea.socket.recv(int(bea.socket.recv(10))).decode() for _ in ('autor', 'texto')]
            bea.socket.settimeout(PLAZO)
            assert (autor, texto) == (uno.nick, '¿lo ves de una vez? ñ')


def test_un_aviso_le_llega_a_la_b_como_un_mensaje_del_asterisco():
    with reunion() as sala:
        berta, = sala.entran((B, 'berta'))
        assert berta.recibidos[0] == (AVISO, 'Tu nick es berta')
        sala.entran((A, 'ana'))
        assert berta.siguiente() == (AVISO, 'ana entró.')


@pytest.mark.parametrize('quien', CUATRO)
def test_nadie_de_ninguna_familia_habla_por_otro_ni_por_el_servidor(quien):
    with reunion() as sala:
        uno, berta = sala.entran(quien, (B, 'blas'))
        for texto in ('* testigo salió.', '[testigo] soy el testigo', '7         testigo4         hola'):
            uno.decir(texto)
            assert berta.siguiente() == sala.testigo.siguiente() == (uno.nick, texto)


# ── Entrar ───────────────────────────────────────────────────────────────────────────────────────────────────────

def test_todas_ven_entrar_a_los_de_todas():
    with reunion() as sala:
        primeros = sala.entran(*OCHO[::2])
        segundos = sala.llegan(*OCHO[1::2])
        for uno in segundos:
            uno.bienvenida()
        sala.testigo.decir('fin')
        for uno in primeros:
            entraron = [texto for autor, texto in uno.esperar('testigo', 'fin') if autor == AVISO]
            assert sorted(entraron) == [f'{otro.nick} entró.' for otro in sorted(segundos, key=lambda otro: otro.nick)]


@pytest.mark.parametrize('quien', CUATRO)
def test_quien_entra_recibe_lo_ultimo_que_se_dijo_sea_de_la_familia_que_sea(quien):
    with reunion(historial=3) as sala:
        sala.testigo.decir('uno', 'dos', '* tres', '[testigo] cuatro ñ', '/usuarios')
        sala.testigo.esperar(AVISO, 'Está testigo.')
        uno, = sala.llegan(quien)
        assert mensajes(uno.bienvenida()) == [('testigo', 'dos'), ('testigo', '* tres'), ('testigo', 'cuatro ñ')]


@pytest.mark.parametrize('quien', CUATRO)
def test_un_nick_ocupado_recibe_un_numero_y_se_sigue_hablando(quien):
    with reunion() as sala:
        familia, nick = quien
        sala.entran((A, nick))
        otro, = sala.entran(quien)
        assert (AVISO, f'Tu nick es {nick}_2') in otro.recibidos
        otro.decir('¿quién soy?')
        assert sala.testigo.siguiente() == (f'{nick}_2', '¿quién soy?')


def test_a_la_d_se_le_pregunta_y_al_volver_dice_su_nick_sin_que_se_lo_pregunten():
    with reunion() as sala:
        dora, = sala.entran((D, 'dora'))
        dora.romper()
        sala.testigo.esperar(AVISO, 'dora salió.')
        sala.charla.sala.ajustes = AjustesServidor(espera_pregunta=PLAZO, espera_marco=0.1)
        assert (AVISO, 'Tu nick es dora') in dora.volver()
        dora.decir('he vuelto')
        assert sala.oidos(('dora', 'he vuelto')) == [('dora', 'he vuelto')]


def test_la_c_puede_callar_y_se_le_pregunta_y_aun_asi_entra_con_su_prefijo():
    with reunion(espera_pregunta=0.05) as sala:
        carla, = sala.nuevos([(C, 'carla')])
        carla.llegar()
        carla.preguntada('Nick: ')
        carla.presentarse('ya estoy')
        assert carla.bienvenida()
        assert sala.testigo.esperar('carla', 'ya estoy') == [(AVISO, 'carla entró.'), ('carla', 'ya estoy')]


@SOLO_POSIX
@pytest.mark.parametrize('familia', [C, D])
def test_lo_que_se_dice_antes_de_saber_la_familia_no_se_pega(familia):
    with reunion(espera_pregunta=0.05, espera_marco=1) as sala:
        uno, = sala.llegan((familia, 'uno'))
        for texto in ('dos', 'tres'):
            esperar_leido(sala.charla, uno)
            uno.decir(texto)
        uno.bienvenida()
        assert [texto for _, texto in sala.oidos(('uno', 'tres'))] == ['hola'] * (familia is C) + ['dos', 'tres']


def test_quien_escribe_su_nick_despacio_pero_con_su_final_es_de_lineas():
    with reunion(espera_marco=PLAZO) as sala:
        ana, = sala.nuevos([(A, 'ana')])
        ana.conectar()
        for trozo in (b'a', b'n', b'a', b'\n'):
            ana.enviar(trozo)
        ana.bienvenida()
        ana.enviar(b'ho')
        ana.enviar(b'la\n')
        assert sala.oidos(('ana', 'hola')) == [('ana', 'hola')]


# ── Con clave ────────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('quien', CUATRO)
def test_a_todas_se_les_pide_la_clave_y_hasta_que_la_dicen_nadie_sabe_de_ellas(quien):
    with servidor(clave='la ñandú', pausa_clave=0.01, espera_marco=0.1, **PARA_LA_D) as charla:
        luis = charla.conectar()
        luis.decir('luis', 'la ñandú')
        luis.hasta(lambda linea: linea.startswith('* Hola, '))
        familia, nick = quien
        uno = familia(charla.direccion, nick)
        charla.personas.append(uno)
        uno.llegar()
        uno.presentarse()
        uno.preguntada('Clave: ')
        uno.decir('mala')
        uno.esperar(AVISO, 'Clave incorrecta.')
        uno.preguntada('Clave: ')
        luis.decir('¿hay alguien?', '/usuarios')
        assert luis.linea() == '* Está luis.'
        uno.decir('la ñandú')
        assert ('luis', '¿hay alguien?') in uno.bienvenida()        # por el historial
        uno.decir('ya estoy')
        lineas = [linea for linea in luis.hasta(f'[{nick}] ya estoy') if linea != f'[{nick}] hola']
        assert lineas == [f'* {nick} entró.', f'[{nick}] ya estoy']


@pytest.mark.parametrize('quien', CUATRO)
def test_cualquiera_puede_irse_en_vez_de_decir_la_clave(quien):
    with servidor(clave='la ñandú', espera_marco=0.1, **PARA_LA_D) as charla:
        familia, nick = quien
        uno = familia(charla.direccion, nick)
        charla.personas.append(uno)
        uno.llegar()
        uno.presentarse()
        uno.preguntada('Clave: ')
        uno.irse()
        assert uno.hasta_el_final() == [(AVISO, 'Hasta luego.')]


# ── Irse ─────────────────────────────────────────────────────────────────────────────────────────────────────────

def test_cada_una_se_va_a_su_manera_y_los_que_quedan_lo_ven():
    with reunion() as sala:
        quedan = sala.entran(*OCHO)
        for despedida in ('/salir', '#LOGOUT', '/SALIR', '#logout', None, '/salir', None, '#LOGOUT'):
            uno = quedan.pop(0)
            uno.irse() if despedida is None else uno.decir(despedida)
            assert uno.hasta_el_final() == [(AVISO, f'Hasta luego, {uno.nick}.')]
            for otro in (*quedan, sala.testigo):
                assert otro.siguiente() == (AVISO, f'{uno.nick} salió.')


def test_un_corte_de_cualquiera_lo_ven_los_que_quedan():
    with reunion() as sala:
        quedan = sala.entran(*OCHO)
        while quedan:
            uno = quedan.pop(0)
            uno.romper()
            for otro in (*quedan, sala.testigo):
                assert otro.siguiente() == (AVISO, f'{uno.nick} salió.')


@pytest.mark.parametrize('quien', CUATRO)
def test_quien_termina_de_hablar_deja_dicho_lo_ultimo(quien):
    with reunion() as sala:
        uno, = sala.entran(quien)
        uno.decir('lo último ñ')
        uno.terminar_de_hablar()
        assert uno.hasta_el_final() == []
        assert sala.testigo.esperar(AVISO, f'{uno.nick} salió.')[:-1] == [(uno.nick, 'lo último ñ')]


def test_lo_que_una_cabecera_anuncio_y_no_llego_no_lo_ve_nadie():
    with reunion() as sala:
        berta, = sala.entran((B, 'berta'))
        berta.enviar(B.con_cabecera('entero') + b'10        a medi')
        berta.terminar_de_hablar()
        assert sala.testigo.esperar(AVISO, 'berta salió.')[:-1] == [('berta', 'entero')]


def test_al_cerrar_el_servidor_todas_reciben_lo_anterior_y_el_aviso():
    with reunion() as sala:
        gente = sala.entran(*CUATRO)
        sala.testigo.decir('antes', '/usuarios')
        sala.testigo.hasta(lambda autor, _: autor == AVISO)
        sala.charla.parar()
        for uno in gente:
            antes, aviso, *salidas = uno.hasta_el_final()
            assert (antes, aviso) == (('testigo', 'antes'), (AVISO, 'El servidor se cierra. Hasta luego.'))
            assert all(texto.endswith(' salió.') for _, texto in salidas)


# ── Lo mismo para todas: límites, limpieza, comandos ─────────────────────────────────────────────────────────────

@pytest.mark.parametrize('quien', [(A, 'ana'), (B, 'berta'), (D, 'dora')])
def test_hasta_200_caracteres_pasan_y_con_mas_se_le_dice_a_quien_los_escribio(quien):
    with reunion() as sala:
        uno, = sala.entran(quien)
        uno.decir('ñ' * 201)
        autor, texto = uno.siguiente()
        assert autor == AVISO and {'201', '200'} <= set(re.findall(r'\d+', texto))
        uno.decir('😀' * 200)
        assert sala.testigo.siguiente() == (uno.nick, '😀' * 200)


def test_los_150_caracteres_de_la_c_pasan_enteros():
    with reunion() as sala:
        carla, = sala.entran((C, 'carla'))
        texto = '你' * (C.TOPE - len('[carla] '))
        carla.decir(texto)
        assert sala.testigo.siguiente() == ('carla', texto)


@pytest.mark.parametrize('quien', CUATRO)
def test_lo_que_moveria_un_cursor_o_no_es_utf8_no_le_llega_a_nadie(quien):
    with reunion() as sala:
        uno, blas = sala.entran(quien, (B, 'blas'))
        uno.decir('\x1b[2Ja\tb\rc\x00\x9b\u2028[otro] falso\u202e\u2066d\x7f')
        assert sala.testigo.siguiente() == blas.siguiente() == (uno.nick, '[2Ja bc[otro] falsod')
        sucio = {A: b'ma\xf1ana\n', B: b'6         ma\xf1ana', C: b'[carla] ma\xf1ana', D: b'ma\xf1ana'}
        uno.enviar(sucio[quien[0]])
        assert sala.testigo.siguiente() == blas.siguiente() == (uno.nick, 'ma\ufffdana')


@pytest.mark.parametrize('quien', CUATRO)
def test_lo_vacio_no_llega(quien):
    with reunion() as sala:
        uno, = sala.entran(quien)
        for vacio in ('', ' ', '\u200b', '\x1b'):
            uno.decir(vacio)
        uno.enviar({A: b'\n\r\n', B: b'0         2         \r\n', C: b'\n', D: b'\r\n'}[quien[0]])
        if quien[0] is D:       # lo de antes se le podría pegar
            uno.enviar(b'\n')
        uno.decir('fin')
        assert sala.testigo.siguiente() == (uno.nick, 'fin')


@pytest.mark.parametrize('quien', CUATRO)
def test_todas_tienen_los_mismos_comandos(quien):
    with reunion() as sala:
        uno, blas = sala.entran(quien, (B, 'blas'))
        uno.decir('/usuarios')
        autor, texto = uno.siguiente()
        assert autor == AVISO and sorted(re.findall(r'\w+', texto)) == sorted(['Están', 'testigo', 'blas', uno.nick])
        uno.decir('/privado BLAS psst, ñ')
        assert uno.siguiente() == (AVISO, 'Enviado a blas en privado.')
        assert blas.siguiente() == (uno.nick, '(privado) psst, ñ')
        blas.decir(f'/privado {uno.nick} dime')
        assert blas.siguiente() == (AVISO, f'Enviado a {uno.nick} en privado.')
        assert uno.siguiente() == ('blas', '(privado) dime')
        uno.decir('/nick otra')
        assert uno.siguiente() == (AVISO, 'Tu nick es otra')
        assert blas.siguiente() == sala.testigo.siguiente() == (AVISO, f'{uno.nick} ahora es otra.')
        uno.decir('//hola')
        assert blas.siguiente() == sala.testigo.siguiente() == ('otra', '/hola')


def test_tras_cambiar_de_nick_el_prefijo_que_la_c_sigue_poniendo_se_quita_y_se_va_como_siempre():
    with reunion() as sala:
        carla, = sala.entran((C, 'carla'))
        carla.decir('/nick otra')
        assert carla.siguiente() == (AVISO, 'Tu nick es otra')
        carla.decir('sigo siendo yo')
        assert sala.testigo.esperar('otra', 'sigo siendo yo') == [(AVISO, 'carla ahora es otra.'),
                                                                  ('otra', 'sigo siendo yo')]
        carla.irse()
        assert carla.hasta_el_final() == [(AVISO, 'Hasta luego, otra.')]


# ── Lo que TCP junta y corta ─────────────────────────────────────────────────────────────────────────────────────

def test_los_mensajes_pegados_de_la_c_se_separan_por_su_prefijo_y_solo_por_el_suyo():
    with reunion() as sala:
        carla, = sala.entran((C, 'carla'), (A, 'ana'))[:1]
        textos = ['uno', 'ñ' * 140, '[ana] no soy ana', '¿[carla? carla] [car', '/usuarios', 'fin']
        carla.enviar(''.join(map(carla.con_prefijo, textos)).encode())
        textos.remove('/usuarios')
        assert sala.oidos(('carla', 'fin')) == [('carla', texto) for texto in textos]
        assert carla.siguiente()[0] == AVISO


def test_la_c_puede_llegar_con_varios_mensajes_pegados():
    with reunion() as sala:
        carla, = sala.nuevos([(C, 'carla')])
        carla.conectar()
        carla.enviar(''.join(map(carla.con_prefijo, ('uno', 'dos', 'tres'))).encode())
        assert sala.oidos(('carla', 'tres')) == [('carla', 'uno'), ('carla', 'dos'), ('carla', 'tres')]


@pytest.mark.parametrize('quien', [(C, 'carla'), (D, 'dora')])
def test_los_fines_de_linea_separan_lo_pegado(quien):
    with reunion() as sala:
        uno, = sala.entran(quien)
        uno.enviar('uno\ndos ñ\r\n\ntres'.encode())
        assert sala.oidos((uno.nick, 'tres')) == [(uno.nick, texto) for texto in ('uno', 'dos ñ', 'tres')]


def test_los_fines_de_linea_separan_lo_que_trae_un_mensaje_con_cabecera():
    with reunion() as sala:
        berta, = sala.entran((B, 'berta'))
        berta.decir('uno\ndos ñ\r\n\ntres\n', 'cuatro')
        assert sala.oidos(('berta', 'cuatro')) == [('berta', texto) for texto in ('uno', 'dos ñ', 'tres', 'cuatro')]


@SOLO_POSIX
@pytest.mark.parametrize('texto', ['mañana', 'ya😀'])
@pytest.mark.parametrize('quien', [(C, 'carla'), (D, 'dora')])
def test_media_letra_espera_a_su_otra_mitad(quien, texto):
    with reunion() as sala:
        uno, = sala.entran(quien)
        datos = (uno.con_prefijo(texto) if quien[0] is C else texto).encode()
        corte = next(puesto for puesto, byte in enumerate(datos) if byte > 127) + 1
        uno.enviar(datos[:corte])
        esperar_leido(sala.charla, uno)
        uno.enviar(datos[corte:])
        esperar_leido(sala.charla, uno)
        uno.decir('fin')
        assert ''.join(texto for _, texto in sala.oidos((uno.nick, 'fin'))) == texto + 'fin'


@SOLO_POSIX
def test_media_letra_tambien_espera_antes_de_saber_la_familia():
    with reunion(espera_marco=3) as sala:
        dora, = sala.nuevos([(D, 'ñandú')])
        dora.conectar()
        dora.enviar(b'\xc3')
        esperar_leido(sala.charla, dora)
        dora.enviar('ñandú'.encode()[1:])
        assert (AVISO, 'Tu nick es ñandú') in dora.bienvenida()


# ── Cabeceras ────────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('cabecera', [
    b'hola      ', b'12ab      ', b'-5        ', b'+5        ', b'65537     ', b'9999999999', b'999999999 ', b'   5      ',
    b'         5', b'          ', b'5    5    ', b'5.0       ', b'1_0       ', b'0x5       ', b'5\n        ', b'5\t        ',
    b'5\0\0\0\0\0\0\0\0\0', '٣'.encode() * 5, b'\xff' * 10, b'5         '.replace(b' ', b'\xa0')])
@pytest.mark.parametrize('de_uno', [False, True], ids=['de golpe', 'de byte en byte'])
def test_una_cabecera_mala_se_avisa_se_cierra_y_no_molesta_a_nadie(cabecera, de_uno):
    with reunion(de_uno) as sala:
        mala, blas = sala.entran((B, 'berta'), (B, 'blas'))
        mala.enviar(B.con_cabecera('buena') + cabecera)
        (autor, texto), = mala.hasta_el_final()
        assert autor == AVISO and '10 caracteres' in texto and texto.endswith('Adiós.')
        blas.decir('sigo aquí')
        assert sala.testigo.hasta(lambda *par: par == ('blas', 'sigo aquí'))[0] == ('berta', 'buena')
        assert blas.esperar(AVISO, 'berta salió.') == [('berta', 'buena'), (AVISO, 'berta salió.')]


def test_lo_que_sigue_a_una_cabecera_mala_no_lo_ve_nadie():
    with reunion() as sala:
        mala, = sala.entran((B, 'berta'))
        mala.enviar(b'x' * 10 + B.con_cabecera('esto no') * 1000)
        assert sala.testigo.siguiente() == (AVISO, 'berta salió.')
        (autor, _), = mala.hasta_el_final()
        assert autor == AVISO


def test_una_cabecera_puede_llegar_al_limite_y_su_mensaje_se_mide_como_todos():
    with reunion(ritmo=0) as sala:
        berta, = sala.entran((B, 'berta'))
        berta.decir('x' * MAX_LINEA, '\n'.join(['y' * 99] * (MAX_LINEA // 100)))
        autor, texto = berta.siguiente()
        assert autor == AVISO and str(MAX_LINEA) in texto and '200' in texto
        for _ in range(MAX_LINEA // 100):
            assert sala.testigo.siguiente() == ('berta', 'y' * 99)


def test_una_primera_cabecera_demasiado_larga_se_avisa_y_se_cierra_sin_esperar_a_mas():
    with reunion() as sala:
        mala, = sala.nuevos([(B, 'berta')])
        mala.conectar()
        mala.enviar(b'999999999 ')
        (autor, texto), = mala.hasta_el_final()
        assert autor == AVISO and texto.endswith('Adiós.')
        ana, = sala.entran((A, 'ana'))
        assert sala.testigo.recibidos.count((AVISO, 'ana entró.')) == 1
        assert not any('berta' in texto for _, texto in sala.testigo.recibidos)


def test_el_nick_de_la_b_puede_traer_de_todo_y_un_nick_vacio_se_vuelve_a_preguntar():
    with reunion() as sala:
        berta, = sala.nuevos([(B, 'berta')])
        berta.conectar()
        berta.decir('')
        berta.preguntada('Nick: ')
        berta.decir('b[e]r\ta ñ')
        assert (AVISO, 'Tu nick es b_e_r_a_ñ') in berta.bienvenida()
        assert sala.testigo.siguiente() == (AVISO, 'b_e_r_a_ñ entró.')


# ── Rezagados ────────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('familia', DE_LA_SALA)
@pytest.mark.parametrize('de_uno', [False, True], ids=['de golpe', 'de byte en byte'])
def test_un_rezagado_no_pierde_el_paso_y_sabe_cuantos_mensajes_se_perdio(familia, de_uno):
    with servidor(ritmo=0, max_memoria=60_000, max_pendiente=10_000, historial=0, espera_marco=0.1, **PARA_LA_D) as charla:
        charla.servidor._escucha.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        lento = familia(charla.direccion, 'lento', buzon=4096, lee_de_uno=de_uno)
        ana, oyente = A(charla.direccion, 'ana'), A(charla.direccion, 'oyente')
        charla.personas += [lento, ana, oyente]
        for uno in (lento, ana, oyente):
            uno.entrar()
        estado, dichos = charla.cliente('lento'), itertools.count()

        def hablar(cuantos):
            ana.decir(*[f'{next(dichos)} {"ñ😀" * 40}' for _ in range(cuantos)])
            for _ in range(cuantos):
                oyente.hasta(lambda autor, _: autor == 'ana')

        def atascado():
            cursor, tandas = estado.cursor, charla.repartidor._tandas
            return cursor is not None and cursor < tandas[0].numero

        hablar(20)
        while not atascado():
            hablar(50)
        ana.decir('/privado lento fin')
        siguiente = huecos = 0
        for autor, texto in lento.esperar('ana', '(privado) fin')[:-1]:
            perdidos = re.fullmatch(r'Te perdiste (\d+) mensajes\.', texto)
            if autor == 'ana':
                assert texto == f'{siguiente} {"ñ😀" * 40}'
                siguiente += 1
            elif perdidos:
                siguiente += int(perdidos[1])
                huecos += 1
        assert siguiente == next(dichos) and huecos


# ── Una multitud ─────────────────────────────────────────────────────────────────────────────────────────────────

@SOLO_POSIX
def test_doscientos_de_cuatro_familias_hablan_a_la_vez_y_cada_uno_lo_recibe_todo(arrancar):
    programa, puerto = arrancar()
    rondas, por_ronda = 3, {A: 8, B: 8, C: 8, D: 1}      # lo crudo sin prefijo, de uno en uno: nada lo separaría
    testigo = A(('127.0.0.1', puerto), 'testigo')
    gente = [familia(('127.0.0.1', puerto), f'{familia.__name__}{numero}')
             for numero in range(50) for familia in DE_LA_SALA]
    cuantos = sum(por_ronda[type(uno)] for uno in gente)
    with contextlib.ExitStack() as pila:
        for uno in (testigo, *gente):
            pila.callback(uno.cerrar)
        testigo.entrar()
        for uno in gente:
            uno.llegar()
        for uno in gente:
            uno.presentarse()
        for uno in gente:
            uno.bienvenida()
        oir_saludos(testigo, {(uno.nick, 'hola') for uno in gente if isinstance(uno, C)})
        testigo.decir('todos dentro', '/usuarios')
        assert testigo.hasta(lambda autor, texto: texto.startswith('Están '))[-1][1].endswith(' y 1 más.')
        for uno in gente:
            uno.esperar('testigo', 'todos dentro')
        for ronda in range(rondas):
            for uno in gente:
                uno.decir(*[f'{ronda}.{numero} ¿qué tal, {uno.nick}? 😀' for numero in range(por_ronda[type(uno)])])
            orden = mensajes(testigo.siguiente() for _ in range(cuantos))
            testigo.decir(f'fin de la ronda {ronda}')
            for uno in gente:
                suyos = [texto for autor, texto in orden if autor == uno.nick]
                assert suyos == [f'{ronda}.{numero} ¿qué tal, {uno.nick}? 😀' for numero in range(por_ronda[type(uno)])]
                assert uno.esperar('testigo', f'fin de la ronda {ronda}')[:-1] == [par for par in orden
                                                                                    if par[0] != uno.nick]
        se_van, cortados, quedan = gente[::4] + gente[1::4], gente[2::4], gente[3::4]
        for uno in se_van:
            uno.irse()
        for uno in cortados:
            uno.romper()
        salidas = {(AVISO, f'{uno.nick} salió.') for uno in se_van + cortados}
        for uno in quedan:
            assert {uno.siguiente() for _ in salidas} == salidas
        for uno in se_van:
            assert uno.hasta_el_final()[-1] == (AVISO, f'Hasta luego, {uno.nick}.')
        programa.enviar_senal(signal.SIGTERM)
        assert programa.acabar() == 0 and programa.errores == ''
        dichos = rondas * (cuantos + 1) + 1 + 50       # los finales de ronda, el «todos dentro», y el saludo de los de C
        assert f'Fin: personas 201, mensajes {dichos}, ' in programa.salida
