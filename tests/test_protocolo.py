"""El protocolo, regla a regla. Sin E/S: cada prueba es una línea o un barrido con azar de semilla fija."""

import random
import re
import unicodedata

import pytest

import protocolo
from config import MAX_LINEA, TAM_BUFFER, TAM_NICK
from protocolo import (COMANDO, LARGO, MENSAJE, NADA, PULSO, SALIDA, Lineas, Numeradas, arreglar_nick, clave_nick,
                       codificar, interpretar, limpiar, nick_libre, presentacion)

SURROGADOS = range(0xD800, 0xE000)
PROHIBIDOS = {*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def leer(*trozos):
    """Las líneas de unos bytes que llegan en esos trozos, y si rebosa."""
    lector = Lineas()
    lineas = [linea for trozo in trozos for linea in lector.recibir(trozo)]
    return lineas + lector.terminar(), lector.rebosa


def cortar(datos, azar, cortes):
    puntos = sorted(azar.randrange(len(datos) + 1) for _ in range(cortes))
    return [datos[inicio:fin] for inicio, fin in zip([0, *puntos], [*puntos, len(datos)])]


# ── De bytes a líneas ────────────────────────────────────────────────────────────────────────────────────────────

def test_dos_mensajes_en_un_envio_son_dos():
    assert leer(b'uno\ndos\n') == (['uno', 'dos'], False)


def test_un_mensaje_en_dos_envios_es_uno():
    assert leer(b'un', b'o\n') == (['uno'], False)


def test_una_linea_no_sale_hasta_que_termina():
    lector = Lineas()
    assert lector.recibir(b'uno\ndo') == ['uno']
    assert lector.recibir(b's') == []
    assert lector.recibir(b'\n') == ['dos']


def test_la_ultima_linea_sale_aunque_no_termine():
    assert leer('adiós'.encode()) == (['adiós'], False)
    assert Lineas().terminar() == []


def test_el_fin_de_linea_de_windows_tambien_vale():
    assert leer(b'uno\r', b'\ndos\r\n\r\n') == (['uno', 'dos', ''], False)


def test_lo_que_no_es_utf8_se_sustituye_y_lo_demas_queda():
    assert leer(b'a\xffb\xc3\n\xb1c\xe4\xbd\n') == (['a\ufffdb\ufffd', '\ufffdc\ufffd'], False)


MUESTRAS = [
    'ñandú, ¿qué tal?\r\n你好 😀👨‍👩‍👧\n\n[ana] hola\r\nsin terminar é'.encode(),
    b'\x00\x00uno\x00\n\x1b[2Jdos\t\x7f\n\r\r\n\n',
    b'\xff\xfe\n\xc3\n\xb1\xc3\xb1\n\xe4\xbd\n\xf0\x9f\x98\n\xf0\x9f\x98\x80\n\xed\xa0\x80\n\xc0\x80\n\xf4\x90\x80\x80',
    'e\u0301\u2028\u202e\u2066\n\ufeffhola\n'.encode(),
    b'\n' * 7, b'', b'\r', b'\n',
]


@pytest.mark.parametrize('datos', MUESTRAS)
def test_de_byte_en_byte_salen_las_mismas_lineas(datos):
    assert leer(*[datos[posicion:posicion + 1] for posicion in range(len(datos))]) == leer(datos)


@pytest.mark.parametrize('datos', MUESTRAS)
def test_cortado_en_dos_por_cualquier_sitio_salen_las_mismas_lineas(datos):
    for corte in range(len(datos) + 1):
        assert leer(datos[:corte], datos[corte:]) == leer(datos)


def test_cortado_al_azar_salen_las_mismas_lineas():
    azar = random.Random(1)
    alfabeto = [b'\n', b'\r\n', b'\r', b'\0', b'\t', b'\xff', b'\xc3', b'a', b' ', 'ñ'.encode(), '你'.encode(),
                '😀'.encode(), '\u2029'.encode(), b'\x1b[A', b'\xed\xa0\x80']
    for _ in range(1500):
        datos = b''.join(azar.choices(alfabeto, k=azar.randrange(60)))
        assert leer(*cortar(datos, azar, azar.randrange(12))) == leer(datos), datos


def test_un_bloque_grande_da_las_mismas_lineas_que_una_a_una():
    azar = random.Random(2)
    textos = [''.join(azar.choices('abcñ 😀\t\u202e', k=azar.randrange(200))) for _ in range(3000)]
    assert leer(codificar('\n'.join(textos)))[0] == [limpiar(texto) for texto in textos]


def test_una_linea_puede_llegar_al_limite_y_no_pasar_de_el():
    justa = b'x' * MAX_LINEA
    assert leer(justa + b'\n') == ([justa.decode()], False)
    assert leer(justa) == ([justa.decode()], False)
    assert leer(justa + b'x\n') == ([], True)
    assert leer(justa + b'x') == ([], True)


def test_el_limite_es_de_bytes_y_no_de_caracteres():
    assert leer('ñ'.encode() * (MAX_LINEA // 2) + b'\n')[1] is False
    assert leer('ñ'.encode() * (MAX_LINEA // 2 + 1) + b'\n')[1] is True


@pytest.mark.parametrize('antes', [[], [b'uno'], [b'uno', b'', 'ñ'.encode()], [b'x' * MAX_LINEA, b'dos']])
@pytest.mark.parametrize('despues', [b'', b'\n', b'\ntres\n', b'\ntres'])
def test_las_lineas_anteriores_a_la_que_rebosa_salen_y_las_posteriores_no(antes, despues):
    datos = b''.join(linea + b'\n' for linea in antes) + b'y' * (MAX_LINEA + 1) + despues
    esperado = [linea.decode() for linea in antes], True
    azar = random.Random(3)
    assert leer(datos) == esperado
    for cortes in (1, 1, 1, 2, 3, 7, 40):
        assert leer(*cortar(datos, azar, cortes)) == esperado
    paso = 16 * 1024
    assert leer(*[datos[inicio:inicio + paso] for inicio in range(0, len(datos), paso)]) == esperado


def test_tras_rebosar_no_sale_nada_mas():
    lector = Lineas()
    assert lector.recibir(b'x' * (MAX_LINEA + 1)) == [] and lector.rebosa
    assert lector.recibir(b'\nhola\n') == [] and lector.terminar() == [] and lector.rebosa


def test_muchas_lineas_cortas_no_rebosan():
    lineas, rebosa = leer(b'x\n' * MAX_LINEA)
    assert len(lineas) == MAX_LINEA and not rebosa


# ── Limpieza ─────────────────────────────────────────────────────────────────────────────────────────────────────

def test_ningun_caracter_que_mueva_el_cursor_sobrevive():
    for punto in range(0x110000):
        if punto not in SURROGADOS:
            limpio = limpiar(f'a{chr(punto)}b')
            assert not PROHIBIDOS.intersection(map(ord, limpio)), hex(punto)


def test_la_limpieza_no_toca_lo_demas():
    quitados = PROHIBIDOS | {0xFEFF}
    for punto in range(0x110000):
        if punto not in SURROGADOS and punto not in quitados:
            assert limpiar(f'a{chr(punto)}b') == f'a{chr(punto)}b', hex(punto)


@pytest.mark.parametrize('sucio, limpio', [
    ('a\x1b[2Jb', 'a[2Jb'), ('a\tb', 'a b'), ('a\rb', 'ab'), ('a\x00b\x7f\x85\x9b', 'ab'), ('a\u2028b\u2029', 'ab'),
    ('\u202eab\u202c\u2066c\u2069', 'abc'), ('\ufeffhola', 'hola')])
def test_lo_prohibido_se_quita_y_el_tabulador_pasa_a_espacio(sucio, limpio):
    assert limpiar(sucio) == limpio


def test_lo_limpio_ya_no_cambia():
    azar = random.Random(4)
    for _ in range(2000):
        texto = limpiar(''.join(azar.choices('añ😀 \t\r\x1b\x9b\u2028\u202e\u2069\u200d\ufeff', k=azar.randrange(12))))
        assert limpiar(texto) == texto


def test_una_linea_codificada_es_una_sola_linea():
    assert codificar('¿ñ? 😀') == '¿ñ? 😀\n'.encode()
    assert codificar('a\ud800b').endswith(b'b\n')


# ── Lo que dice un cliente ───────────────────────────────────────────────────────────────────────────────────────

ANA = ('[ana] ',)


@pytest.mark.parametrize('linea, texto', [
    ('hola', 'hola'), ('[ana] hola', 'hola'), ('[beto] hola', '[beto] hola'), ('[Ana] hola', '[Ana] hola'),
    ('[ana]hola', '[ana]hola'), ('dije [ana] hola', 'dije [ana] hola'), ('[ana] [ana] hola', '[ana] hola'),
    ('  sangrado', '  sangrado'), ('[ana]   sangrado', '  sangrado'), ('cola  ', 'cola'), ('//usuarios', '/usuarios'),
    ('[ana] //usuarios', '/usuarios'), ('//', '/'), ('#hola', '#hola'), ('#LOGOUT ya', '#LOGOUT ya'),
    ('digo /salir', 'digo /salir'), ('\ufffd', '\ufffd')])
def test_un_mensaje_llega_sin_el_prefijo_propio_y_con_el_ajeno(linea, texto):
    assert interpretar(linea, ANA) == (MENSAJE, texto)


def test_se_quita_el_prefijo_que_pidio_y_el_que_tiene():
    prefijos = ('[ana maria] ', '[ana_maria] ', '[ana_maria_2] ')
    for prefijo in prefijos:
        assert interpretar(prefijo + 'hola', prefijos) == (MENSAJE, 'hola')


@pytest.mark.parametrize('pedido', ['a]b', ']', 'a] b', '[x]'])
def test_se_quita_entero_el_prefijo_de_un_nick_con_corchete(pedido):
    assert interpretar(f'[{pedido}] hola', (f'[{pedido}] ', '[a_b] ')) == (MENSAJE, 'hola')


@pytest.mark.parametrize('linea', ['#LOGOUT', '#logout', '#LogOut', '/salir', '/SALIR', '/Salir', ' /salir'.strip(),
                                   '/salir  ', '[ana] #LOGOUT', '[ana] /salir'])
def test_la_salida_vale_en_mayusculas_y_minusculas(linea):
    assert interpretar(linea, ANA)[0] == SALIDA


@pytest.mark.parametrize('linea', ['/ayuda', '/usuarios', '/nick x', '/otra', '/', '[ana] /ayuda', '/salir ya',
                                   '/salirme'])
def test_lo_que_empieza_por_una_barra_es_una_orden(linea):
    assert interpretar(linea, ANA) == (COMANDO, linea.removeprefix('[ana] '))


@pytest.mark.parametrize('linea', ['', '   ', '[ana] ', '[ana]    ', '\u00a0', '\u200b\u200d', '\u2800\u3164 ',
                                   '\u3000 \u2003', '\u2060', '\u2003\u200b\u2003'])
def test_lo_vacio_no_es_nada(linea):
    assert interpretar(linea, ANA)[0] == NADA


def test_sin_ningun_caracter_visible_no_es_nada_se_mezclen_como_se_mezclen():
    azar = random.Random(5)
    invisibles = ' \u00a0\u2003\u200b\u3000\u2060\u3164\u2009'
    for _ in range(2000):
        assert interpretar(''.join(azar.choices(invisibles, k=azar.randrange(6))), ANA)[0] == NADA


@pytest.mark.parametrize('letra', ['a', 'ñ', '你', '😀'])
def test_el_limite_se_cuenta_en_caracteres_y_no_en_bytes(letra):
    justo, largo = letra * TAM_BUFFER, letra * (TAM_BUFFER + 1)
    assert interpretar(justo, ANA) == (MENSAJE, justo)
    assert interpretar(largo, ANA) == (LARGO, largo)


def test_ni_el_prefijo_propio_ni_los_espacios_finales_cuentan():
    assert interpretar('[ana] ' + 'x' * TAM_BUFFER + '   ', ANA) == (MENSAJE, 'x' * TAM_BUFFER)


def test_la_barra_que_se_quita_no_cuenta():
    assert interpretar('//' + 'x' * (TAM_BUFFER - 1), ANA) == (MENSAJE, '/' + 'x' * (TAM_BUFFER - 1))


def test_el_aviso_de_largo_dice_cuanto_y_el_limite():
    assert {'201', '200'} <= set(re.findall(r'\d+', protocolo.aviso_largo('x' * 201)))


@pytest.mark.parametrize('linea, esperado', [
    ('ana', ('ana', '')), ('[ana] hola', ('ana', 'hola')), ('[ana]', ('ana', '')), ('[ana]hola', ('ana', 'hola')),
    ('[ana] [beto] hola', ('ana', '[beto] hola')), ('[] hola', ('', 'hola')), ('', ('', '')),
    ('[ana maría] hola', ('ana maría', 'hola'))])
def test_la_primera_linea_es_el_nick_o_el_nick_y_un_mensaje(linea, esperado):
    assert presentacion(linea) == esperado


def test_un_nick_avisado_es_el_que_se_lee():
    assert protocolo.nick_avisado(protocolo.aviso_de_nick('ana_2')) == 'ana_2'


@pytest.mark.parametrize('linea', ['[ana] * Tu nick es otro', '* ana entró.', ' * Tu nick es otro', ''])
def test_ningun_mensaje_imita_el_aviso_de_nick(linea):
    assert protocolo.nick_avisado(linea) is None


# ── Nicks ────────────────────────────────────────────────────────────────────────────────────────────────────────

def nicks_al_azar(cuantos, semilla):
    azar = random.Random(semilla)
    comunes = 'aAñÑe\u0301éß_-. \t[]/#:*ＡⅣ²ﬁ你한ㄱᄀ\u115f\u1160\u3164\u200b\u2060\u2003\u202e\x1b😀İıςΣ\u0345ͅأ'
    for _ in range(cuantos):
        if azar.random() < 0.7:
            yield ''.join(azar.choices(comunes, k=azar.randrange(30)))
        else:
            yield ''.join(chr(azar.choice([azar.randrange(0xD800), azar.randrange(0xE000, 0x110000)]))
                          for _ in range(azar.randrange(30)))


@pytest.mark.parametrize('pedido, nick', [
    ('ana', 'ana'), ('Ana-María_2.0', 'Ana-María_2.0'), ('ana maría', 'ana_maría'), ('  ana  ', 'ana'),
    ('a[b]c', 'a_b_c'), ('e\u0301', 'é'), ('你好', '你好'), ('😀', '_'), ('', ''), ('   ', ''), ('\u200b', ''),
    ('a\tb', 'a_b'), ('a\x1bb', 'ab'), ('x' * 21, 'x' * 20), ('ñ' * 50, 'ñ' * 20), ('/ayuda', '_ayuda')])
def test_un_nick_se_arregla(pedido, nick):
    assert arreglar_nick(pedido) == nick


def test_un_nick_tiene_solo_letras_numeros_y_tres_signos_y_cabe():
    for pedido in nicks_al_azar(4000, 6):
        nick = arreglar_nick(pedido)
        assert len(nick) <= TAM_NICK, ascii(pedido)
        assert all(letra.isalnum() or letra in '_-.' for letra in nick), ascii(pedido)
        assert unicodedata.is_normalized('NFC', nick), ascii(pedido)


def test_un_nick_arreglado_ya_no_cambia():
    for pedido in nicks_al_azar(4000, 7):
        nick = arreglar_nick(pedido)
        assert arreglar_nick(nick) == nick, ascii(pedido)


def test_un_nick_con_un_relleno_invisible_en_el_limite_ya_no_cambia():
    nick = arreglar_nick('a' * 19 + '\u3164b')
    assert arreglar_nick(nick) == nick


@pytest.mark.parametrize('uno, otro', [('ana', 'ANA'), ('ana', 'Ａｎａ'), ('maría', 'MARI\u0301A'), ('straße', 'STRASSE'),
                                       ('IV', 'Ⅳ'), ('ς', 'Σ')])
def test_dos_nicks_que_se_leen_igual_son_el_mismo(uno, otro):
    assert clave_nick(uno) == clave_nick(otro)


def test_dos_nicks_distintos_no_son_el_mismo():
    assert len({clave_nick(nick) for nick in ('ana', 'aná', 'ana_', 'ana_2', 'anna')}) == 5


def test_la_clave_de_un_nick_no_depende_de_las_mayusculas():
    for pedido in nicks_al_azar(3000, 8):
        nick = arreglar_nick(pedido)
        assert clave_nick(clave_nick(nick)) == clave_nick(nick), ascii(pedido)


def test_un_nick_ocupado_recibe_el_primer_numero_libre():
    ocupados = {'ana'}
    assert nick_libre('beto', ocupados.__contains__) == 'beto'
    for numero in range(2, 40):
        assert nick_libre('ana', ocupados.__contains__) == f'ana_{numero}'
        ocupados.add(f'ana_{numero}')


@pytest.mark.parametrize('nick', ['ana', 'x' * TAM_NICK, 'ñ' * TAM_NICK])
def test_miles_con_el_mismo_nick_tienen_nicks_distintos_que_caben(nick):
    ocupados = set()
    for _ in range(3000):
        elegido = nick_libre(nick, ocupados.__contains__)
        assert clave_nick(elegido) not in ocupados and len(elegido) <= TAM_NICK
        ocupados.add(clave_nick(elegido))


def test_un_nick_libre_sigue_siendo_un_nick_y_esta_libre():
    azar = random.Random(9)
    pedidos = [nick for nick in map(arreglar_nick, nicks_al_azar(300, 9)) if nick]
    ocupados = set()
    for _ in range(3000):
        elegido = nick_libre(azar.choice(pedidos), ocupados.__contains__)
        assert clave_nick(elegido) not in ocupados and 0 < len(elegido) <= TAM_NICK
        assert unicodedata.is_normalized('NFC', elegido), ascii(elegido)
        ocupados.add(clave_nick(elegido))
        if azar.random() < 0.3:
            ocupados.discard(azar.choice(sorted(ocupados)))


def test_buscar_un_nick_libre_no_prueba_todos():
    consultas = []
    ocupados = {'ana', *(f'ana_{numero}' for numero in range(2, 10_000))}
    assert nick_libre('ana', lambda clave: consultas.append(clave) or clave in ocupados) == 'ana_10000'
    assert len(consultas) < 50


# ── Entre programas ──────────────────────────────────────────────────────────────────────────────────────────────

def test_la_pregunta_entre_programas_no_es_un_mensaje():
    assert interpretar('#VIVO', ()) == (PULSO, '#VIVO')
    assert interpretar('#VIVO 3', ())[0] == MENSAJE


def test_las_lineas_numeradas_llevan_su_numero():
    assert Numeradas.codificar('[ana] ñ\n* 2 cosas\n'.encode(), 41) == '41 [ana] ñ\n42 * 2 cosas\n'.encode()
    assert Numeradas.separar('41 [ana] 7 cosas') == (41, '[ana] 7 cosas')


@pytest.mark.parametrize('linea', ['[ana] hola', 'x', '', '٣ x', '9' * 19 + ' x', '-1 x'])
def test_lo_que_no_tiene_numero_no_se_separa(linea):
    assert Numeradas.separar(linea) == (0, linea)


def test_lo_posterior_a_una_linea_se_encuentra_aunque_falten_numeros():
    datos = b'#SESION 0 nueva\n' + b''.join(b'%d [ana] %d\n' % (numero, numero) for numero in (3, 4, 7, 10))
    for visto in range(12):
        posicion, antes = Numeradas.buscar(datos, visto)
        assert datos[posicion:] == b''.join(b'%d [ana] %d\n' % (n, n) for n in (3, 4, 7, 10) if n > visto)
        assert antes == 1 + sum(n <= visto for n in (3, 4, 7, 10))


def test_quien_se_ha_cortado_sigue_entre_los_nicks_que_se_completan():
    assert protocolo.presencia('* Están ana (reconectando), luis y 3 más.') == (['ana', 'luis'], [])
    assert protocolo.presencia('* Está ana (reconectando).') == (['ana'], [])


@pytest.mark.parametrize('pedido', ['a' + ' ' * 500_000 + 'a', 'a' + '\u0315\u0300' * 250_000])
def test_un_nick_enorme_no_hace_trabajar_de_mas_ni_se_guarda_entero(pedido):
    nick, texto = presentacion(pedido)
    assert len(nick) <= 200 and texto == ''
    assert len(arreglar_nick(pedido)) <= 20
