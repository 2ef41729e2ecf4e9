"""Diez segundos de fuzz, y el modelo que lo juzga: quien no puede suspender no es un juez."""

import pytest

from tests import fuzz
from tests.modelo import Dicho, Fallo, Linea, Modelo, Vida, leer_linea

BIENVENIDA = ['* Tu nick es eva', '* Hola, eva. Están testigo, ana. /ayuda dice qué puedes hacer; /salir, para irte.']
OTRAS = ['[ana] «1.0» a', '[eva] «2.0» e', '[ana] «1.1» b', '[ana] «1.2» c']


@pytest.mark.parametrize('semilla', [2, 1002])     # hubo un día en que fallaron
def test_cinco_segundos_de_clientes_al_azar_cumplen_el_modelo(semilla):
    with fuzz.excepciones_de_los_hilos():
        cifras = fuzz.jugar(5, semilla)
    assert cifras['rondas'] and cifras['entregas'] > 100


def juzgar(lo_de_eva, lista=OTRAS):
    """Lo que dice el modelo si `lista` es la de la sala y eva, que entró tras ana, recibió `lo_de_eva`."""
    ana, eva = Vida(1, 'ana'), Vida(2, 'eva')
    ana.dichos = [Dicho(f'«1.{numero}» {letra}', f'«1.{numero}» {letra}') for numero, letra in enumerate('abc')]
    eva.dichos = [Dicho('«2.0» e', '«2.0» e')]
    bienvenida_de_ana = ['* Tu nick es ana',
                         '* Hola, ana. Está testigo. /ayuda dice qué puedes hacer; /salir, para irte.']
    ana.recibidas = [Linea(texto) for texto in [*bienvenida_de_ana, '* eva entró.', '[eva] «2.0» e']]
    eva.recibidas = [Linea(texto) for texto in [*BIENVENIDA, *lo_de_eva]]
    Modelo([Linea(texto) for texto in ['* ana entró.', '* eva entró.', *lista]]).comprobar([ana, eva])


def test_el_modelo_aprueba_lo_que_cumple():
    juzgar(['[ana] «1.0» a', '[ana] «1.1» b', '[ana] «1.2» c'])


@pytest.mark.parametrize('lo_de_eva', [
    ['[ana] «1.0» a', '[ana] «1.2» c'],
    ['[ana] «1.0» a', '[ana] «1.1» b'],
    ['[ana] «1.0» a', '[ana] «1.1» b', '[ana] «1.1» b', '[ana] «1.2» c'],
    ['[ana] «1.1» b', '[ana] «1.0» a', '[ana] «1.2» c'],
    ['[ana] «1.0» a', '[eva] «2.0» e', '[ana] «1.1» b', '[ana] «1.2» c'],
    ['[luis] «1.0» a', '[ana] «1.1» b', '[ana] «1.2» c'],
    ['[ana] «1.0» a', '* Te perdiste 1 mensajes.', '[ana] «1.2» c'],
], ids=['perdida', 'la última perdida', 'repetida', 'desordenada', 'eco', 'de otro', 'pérdida con memoria de sobra'])
def test_el_modelo_suspende_lo_que_no(lo_de_eva):
    with pytest.raises(Fallo):
        juzgar(lo_de_eva)


@pytest.mark.parametrize('lista', [
    ['[ana] «1.0» a', '[ana] «1.1» b', '[ana] «1.2» c'],
    ['[ana] «1.0» a', '[eva] «2.0» e', '[eva] «2.0» e', '[ana] «1.1» b', '[ana] «1.2» c'],
    ['[ana] «1.1» b', '[ana] «1.0» a', '[eva] «2.0» e', '[ana] «1.2» c'],
], ids=['no aceptada', 'aceptada dos veces', 'aceptada en otro orden'])
def test_el_modelo_suspende_lo_dicho_que_no_se_acepto_una_vez_y_en_su_orden(lista):
    with pytest.raises(Fallo):
        juzgar([texto for texto in lista if texto.startswith('[ana]')], lista)


@pytest.mark.parametrize('datos', [b'[ana] \xff', b'[ana] \x1b[2J', '[ana] \u202e'.encode(), b'hola'])
def test_el_modelo_suspende_una_linea_mal_formada(datos):
    with pytest.raises(Fallo):
        leer_linea(datos, 'eva')
