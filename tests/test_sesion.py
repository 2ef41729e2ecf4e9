"""Lo que se dicen los programas, y la bandeja de lo que aún no consta que llegara. Sin E/S."""

import random

import pytest

import protocolo
import sesion
from sesion import Bandeja

FICHA = '0123456789abcdef' * 2


@pytest.mark.parametrize('visto', [0, 1, 10**17])
def test_una_peticion_de_sesion_se_lee_como_se_escribe(visto):
    assert sesion.pide_sesion(sesion.peticion(FICHA, visto))
    assert sesion.leer_peticion(sesion.peticion(FICHA, visto)) == (FICHA, visto)


@pytest.mark.parametrize('mala', ['#SESION', '#SESION ', f'#SESION {FICHA}', f'#SESION {FICHA} -1', f'#SESION {FICHA} ٣',
                                  f'#SESION {FICHA.upper()} 0', f'#SESION {FICHA}0 0', f'#SESION {FICHA} ' + '9' * 19,
                                  f'#SESION {FICHA} 0 ', f'#SESION  {FICHA} 0'])
def test_una_peticion_mal_escrita_no_se_lee(mala):
    assert sesion.pide_sesion(mala) and sesion.leer_peticion(mala) is None


@pytest.mark.parametrize('linea', ['#SESIONES', 'ana', f'[ana] #SESION {FICHA} 0'])
def test_lo_que_no_pide_una_sesion_es_un_nick(linea):
    assert not sesion.pide_sesion(linea)


@pytest.mark.parametrize('recibidos, retomada', [(0, False), (7, True), (0, True)])
def test_una_respuesta_se_lee_como_se_escribe_aunque_la_preceda_la_pregunta(recibidos, retomada):
    linea = sesion.respuesta(recibidos, retomada)
    assert sesion.leer_respuesta(linea) == (recibidos, retomada)
    assert sesion.leer_respuesta(protocolo.pregunta(protocolo.NICK) + linea) == (recibidos, retomada)


@pytest.mark.parametrize('linea', ['* Sala llena.', '#SESION nueva', '#SESION 1 otra', '[ana] #SESION 0 nueva', ''])
def test_lo_que_no_es_una_respuesta_no_se_lee(linea):
    assert sesion.leer_respuesta(linea) is None


def test_un_acuse_se_lee_como_se_escribe_y_un_mensaje_no_lo_imita():
    assert sesion.leer_acuse(sesion.acuse(12)) == 12
    for linea in ('#VIVO', '[ana] #VIVO 3', '* #VIVO 3', '#VIVO -1', '#VIVO 3 '):
        assert sesion.leer_acuse(linea) is None


# ── La bandeja ───────────────────────────────────────────────────────────────────────────────────────────────────

def bandeja_con(*lineas, cada_acuse=100):
    bandeja = Bandeja(cada_acuse)
    for linea in lineas:
        bandeja.anadir(linea)
    return bandeja


def sale(bandeja):
    """Todo lo que toca enviar, en líneas."""
    datos = b''
    while bandeja.hay_que_enviar():
        trozo = bandeja.siguiente()[:5]
        bandeja.enviados(len(trozo))
        datos += trozo
    return datos.decode().splitlines()


def test_una_linea_sigue_en_la_bandeja_hasta_que_se_acepta():
    bandeja = bandeja_con('uno', 'dos')
    assert sale(bandeja) == ['uno', 'dos'] and len(bandeja) == 2 and bandeja.sin_salir() == 0
    bandeja.aceptar(1)
    assert len(bandeja) == 1
    bandeja.aceptar(2)
    assert len(bandeja) == 0


def test_al_retomar_sale_solo_lo_no_aceptado_y_en_otra_sesion_todo():
    bandeja = bandeja_con('uno', 'dos', 'tres')
    sale(bandeja)
    bandeja.empezar(2, retomada=True)
    assert sale(bandeja) == ['tres']
    bandeja.empezar(0, retomada=False)
    assert sale(bandeja) == ['tres']
    bandeja.aceptar(1)
    assert len(bandeja) == 0


def test_lo_que_un_corte_dejo_a_medias_sale_entero():
    bandeja = bandeja_con('una línea')
    bandeja.siguiente()
    bandeja.enviados(4)
    bandeja.empezar(0, retomada=True)
    assert sale(bandeja) == ['una línea']


def test_cada_tantas_lineas_se_pregunta_cuantas_se_han_aceptado():
    assert sale(bandeja_con(*'abcde', cada_acuse=2)) == ['a', 'b', '#VIVO', 'c', 'd', '#VIVO', 'e']


def test_preguntar_no_rompe_la_linea_que_esta_saliendo():
    bandeja = bandeja_con('uno')
    bandeja.siguiente()
    bandeja.enviados(1)
    bandeja.preguntar()
    assert bandeja.siguiente() == b'no\n'
    bandeja.enviados(3)
    bandeja.preguntar()
    assert sale(bandeja) == ['#VIVO']


def test_recortar_olvida_las_primeras_pero_no_las_que_salieron():
    bandeja = bandeja_con(*'abc')
    sale(bandeja)
    for linea in 'defgh':
        bandeja.anadir(linea)
    assert bandeja.recortar(5) == 3 and bandeja.recortar(5) == 0
    bandeja.empezar(1, retomada=True)
    assert sale(bandeja) == ['b', 'c', 'g', 'h']


def test_un_acuse_disparatado_no_rompe_la_cuenta():
    bandeja = bandeja_con('uno')
    bandeja.aceptar(-5)
    assert len(bandeja) == 1
    bandeja.aceptar(10**9)
    bandeja.anadir('dos')
    assert len(bandeja) == 1


def test_con_cortes_al_azar_el_servidor_acepta_cada_linea_una_vez_y_en_orden():
    azar = random.Random(20)
    for _ in range(200):
        bandeja, aceptadas, total, rio = Bandeja(azar.randrange(1, 6)), [], 0, b''
        for _ in range(60):
            suerte = azar.random()
            if suerte < 0.3:
                bandeja.anadir(f'línea {total}')
                total += 1
            elif suerte < 0.7 and bandeja.hay_que_enviar():
                trozo = bandeja.siguiente()
                trozo = trozo[:azar.randrange(len(trozo) + 1)]
                bandeja.enviados(len(trozo))
                *lineas, rio = (rio + trozo).split(b'\n')
                aceptadas += [linea.decode() for linea in lineas if linea != b'#VIVO']
            elif suerte < 0.85:
                bandeja.aceptar(len(aceptadas))
            else:
                rio = b''
                bandeja.empezar(len(aceptadas), retomada=True)
        assert aceptadas == [f'línea {numero}' for numero in range(len(aceptadas))]
        assert len(aceptadas) + len(bandeja) >= total
