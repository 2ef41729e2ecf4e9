"""Los marcos, sin sockets: se corte como se corte el río, los mensajes son los mismos; y lo que se envía, lo que se lee.

Las cabeceras y las líneas se escriben y se leen aquí con cuentas propias, no con las del programa.
"""

import random

import pytest

from config import MAX_LINEA
from protocolo import Cabecera, Crudo, Lineas, Numeradas, reconocer

TEXTOS = ['ana', '¿qué tal, año?', '😀 你好', '', '   sangrado', '12        ', '[otro] hola', 'x' * 300]


def con_cabecera(texto):
    return str(len(texto.encode())).ljust(10).encode() + texto.encode()


def con_linea(texto):
    return texto.encode() + b'\n'


def en_dos(datos):
    return [(datos[:corte], datos[corte:]) for corte in range(len(datos) + 1)]


def al_azar(datos, veces=50):
    azar = random.Random(2026)
    for _ in range(veces):
        cortes = sorted(azar.choices(range(len(datos) + 1), k=azar.randint(1, 12)))
        yield [datos[desde:hasta] for desde, hasta in zip([0, *cortes], [*cortes, len(datos)])]


def leer(marco, trozos):
    return [mensaje for trozo in trozos for mensaje in marco.recibir(trozo)] + marco.terminar()


# ── De bytes a mensajes ──────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('marco, escribir', [(Lineas, con_linea), (Cabecera, con_cabecera)])
def test_se_corte_como_se_corte_los_mensajes_son_los_mismos(marco, escribir):
    datos = b''.join(map(escribir, TEXTOS))
    for trozos in (*en_dos(datos), [bytes([byte]) for byte in datos], *al_azar(datos)):
        assert leer(marco(), trozos) == TEXTOS


def test_la_cabecera_cuenta_bytes_y_un_fin_de_linea_tambien_separa():
    assert Cabecera().recibir(b'3         \xc3\xb1x' + b'7         uno\ndos') == ['ñx', 'uno', 'dos']


def test_un_mensaje_con_cabecera_que_no_llega_entero_no_existe():
    marco = Cabecera()
    assert marco.recibir(con_cabecera('entero') + con_cabecera('a medias')[:-1]) == ['entero']
    assert marco.terminar() == []


@pytest.mark.parametrize('mala', [b'hola      ', b'-1        ', b'+1        ', b' 1        ', b'1 2       ', b'1e3       ',
                                  b'1_0       ', b'1234567890', b'          ', '٣        '.encode(), b'1.0       ',
                                  f'{MAX_LINEA + 1:<10}'.encode(), b'999999999 '])
def test_una_cabecera_mala_se_sabe_en_cuanto_esta_entera_y_lo_anterior_vale(mala):
    bueno = con_cabecera('antes')
    for trozos in en_dos(bueno + mala):
        marco = Cabecera()
        assert leer(marco, trozos) == ['antes'] and marco.rebosa
        assert marco.recibir(con_cabecera('después')) == []


@pytest.mark.parametrize('cuantos', [0, 1, 10, MAX_LINEA])
def test_una_cabecera_admite_hasta_el_limite(cuantos):
    marco = Cabecera()
    assert marco.recibir(con_cabecera('x' * cuantos)) == ['x' * cuantos] and not marco.rebosa


def test_mientras_no_llega_entera_una_cabecera_no_guarda_mas_que_su_mensaje():
    marco = Cabecera(maximo=100)
    marco.recibir(b'100       ' + b'x' * 99)
    assert not marco.rebosa and len(marco._resto) == 109
    assert marco.recibir(b'x101       ' + b'y' * 1000) == ['x' * 100]
    assert marco.rebosa and not marco._resto


def test_en_crudo_un_mensaje_es_lo_que_dio_una_lectura():
    marco = Crudo()
    assert [marco.recibir(lectura) for lectura in (b'ana', b'hola', b'uno dos')] == [['ana'], ['hola'], ['uno dos']]


@pytest.mark.parametrize('lectura, mensajes', [
    ('[Ana] uno[Ana] dos[Ana] tres', ['[Ana] uno', '[Ana] dos', '[Ana] tres']),
    ('[Ana] dice [Luis] que no', ['[Ana] dice [Luis] que no']),
    ('[Ana] uno\n[Ana] dos\r\n', ['[Ana] uno', '[Ana] dos']),
    ('[A.*] x[A.*] y', ['[A.*] x', '[A.*] y']),
    ('sin prefijo [Ana] uno[Ana] dos', ['sin prefijo [Ana] uno[Ana] dos']),
    ('\n\n', []),
])
def test_lo_crudo_pegado_se_separa_por_su_prefijo_y_por_los_fines_de_linea(lectura, mensajes):
    assert Crudo().recibir(lectura.encode()) == mensajes


def test_la_costura_es_la_del_primer_mensaje():
    marco = Crudo()
    marco.recibir(b'[Ana] hola')
    assert marco.recibir(b'[Luis] a[Luis] b[Ana] c') == ['[Luis] a[Luis] b', '[Ana] c']


def test_un_prefijo_raro_no_hace_trabajar_de_mas():
    marco = Crudo()
    marco.recibir(b'[' * 8000 + b'x]')
    assert marco.recibir(b'[' * 1_000_000) == ['[' * 1_000_000]


def test_en_crudo_media_letra_espera_a_su_otra_mitad():
    marco = Crudo()
    ya, luego = 'mañana'.encode()[:3], 'mañana'.encode()[3:]
    assert [marco.recibir(ya), marco.recibir(luego), marco.recibir(b'\xf0\x9f')] == [['ma'], ['ñana'], []]
    assert marco.terminar() == ['�']


def test_en_crudo_tampoco_pasan_los_controles():
    assert Crudo().recibir('[Ana] \x1b[2J\u202ehola\0'.encode()) == ['[Ana] [2Jhola']


# ── De mensajes a bytes ──────────────────────────────────────────────────────────────────────────────────────────

DE_LA_SALA = ['[ana] ¿qué tal?', '* luis entró.', '[luis] * no soy un aviso', '[ñu] (privado) psst', '[ana] [luis] 你好']
LINEAS = ''.join(linea + '\n' for linea in DE_LA_SALA).encode()
ESPERADO = {
    Lineas: [linea.encode() + b'\n' for linea in DE_LA_SALA],
    Crudo: [linea.encode() + b'\n' for linea in DE_LA_SALA],
    Numeradas: [f'{numero} {linea}\n'.encode() for numero, linea in enumerate(DE_LA_SALA, 98)],
    Cabecera: [con_cabecera(autor) + con_cabecera(texto) for autor, texto in [
        ('ana', '¿qué tal?'), ('*', 'luis entró.'), ('luis', '* no soy un aviso'), ('ñu', '(privado) psst'),
        ('ana', '[luis] 你好')]],
}


@pytest.mark.parametrize('marco', ESPERADO)
def test_cada_marco_escribe_las_lineas_a_su_modo(marco):
    assert marco.codificar(LINEAS, 98) == b''.join(ESPERADO[marco])


@pytest.mark.parametrize('marco', ESPERADO)
def test_quien_recibe_a_medias_recibe_el_resto_hasta_el_final_de_su_mensaje(marco):
    fines = [0]
    for pieza in ESPERADO[marco]:
        fines.append(fines[-1] + len(pieza))
    datos = b''.join(ESPERADO[marco])
    for enviados in range(len(datos) + 1):
        cuantos = next(orden for orden, fin in enumerate(fines) if fin >= enviados)
        assert marco.cortar(datos, enviados) == (fines[cuantos], cuantos)


# ── Cuál es cada uno ─────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('primeros, enseguida, tras_un_silencio', [
    (b'ana\n', Lineas, Lineas),
    (b'ana', None, Crudo),
    (b'[Ana] hola', None, Crudo),
    (b'[Ana] hola\n', Lineas, Lineas),
    (b'3         ', Cabecera, Cabecera),
    (b'3         ana', Cabecera, Cabecera),
    (b'6         a\nb\nc\n', Cabecera, Cabecera),
    (b'3', None, Crudo),
    (b'3        ', None, Crudo),
    (b'3\n        ana', Lineas, Lineas),
    (b'3     \n   ', Lineas, Lineas),
    (b'1234567890', None, Crudo),
    (b' 3        ', None, Crudo),
    (b'x' * (MAX_LINEA + 1), Lineas, Lineas),
    (b'', None, Crudo),
    (b'\xff\xfe', None, Crudo),
])
def test_se_reconoce_por_los_primeros_bytes_y_por_el_silencio(primeros, enseguida, tras_un_silencio):
    assert reconocer(primeros, silencio=False) is enseguida
    assert reconocer(primeros, silencio=True) is tras_un_silencio
