"""Las tandas: de muchas entradas a lo que recibe cada cliente. Sin sockets."""

import random

from protocolo import Lineas, Numeradas
from sala import CORTE, ENTRA, SALE, VUELTA, Entrada
from tandas import Tanda
from tests.test_protocolo import cortar

class Falso:
    def __init__(self, nombre, dentro, marco=Lineas):
        self.nombre, self.dentro, self.marco = nombre, dentro, marco


def segun_el_modelo(entradas, cliente):
    """Lo mismo que una `Tanda`, de la manera más simple: cada entrada, una a una, para un cliente."""
    dentro, datos, lineas = cliente.dentro, b'', 0
    for entrada in entradas:
        if entrada.destino is None:
            vale = dentro and entrada.autor is not cliente
        else:
            vale = entrada.destino is cliente
        if vale:
            datos += entrada.datos
            lineas += entrada.lineas
        if entrada.destino is cliente and entrada.paso:
            dentro = entrada.paso == ENTRA
    return datos, lineas, dentro


def entradas_al_azar(azar, clientes, cuantas):
    situacion = {cliente: cliente.dentro for cliente in clientes}
    entradas = []
    for numero in range(cuantas):
        lineas = azar.randrange(1, 4)
        datos = b''.join(b'%d-%d\n' % (numero, linea) for linea in range(lineas))
        cliente, suerte = azar.choice(clientes), azar.random()
        if suerte < 0.15:
            entradas.append(Entrada(datos, lineas))
        elif suerte < 0.6:
            entradas.append(Entrada(datos, lineas, autor=cliente))
        elif suerte < 0.8:
            entradas.append(Entrada(datos, lineas, destino=cliente))
        elif suerte < 0.85:
            entradas.append(Entrada(b'', 0, destino=cliente, paso=SALE if situacion[cliente] else ENTRA))
            situacion[cliente] = not situacion[cliente]
        else:
            entradas.append(Entrada(datos, lineas, destino=cliente, paso=SALE if situacion[cliente] else ENTRA))
            situacion[cliente] = not situacion[cliente]
    return entradas


def test_una_tanda_da_a_cada_uno_lo_que_diria_el_modelo():
    azar = random.Random(10)
    for _ in range(1500):
        clientes = [Falso(numero, azar.random() < 0.6) for numero in range(azar.randrange(1, 6))]
        entradas = entradas_al_azar(azar, clientes, azar.randrange(20))
        tanda = Tanda(entradas)
        for cliente in clientes:
            if cliente.dentro or cliente in tanda.vistas:
                datos, lineas, dentro = segun_el_modelo(entradas, cliente)
                assert tanda.para(cliente) == datos
                assert tanda.lineas_para(cliente) == lineas == datos.count(b'\n')
                if cliente in tanda.vistas:
                    assert tanda.vistas[cliente].dentro == dentro


def test_partir_las_entradas_en_tandas_no_cambia_lo_que_recibe_cada_uno():
    azar = random.Random(11)
    for _ in range(500):
        clientes = [Falso(numero, azar.random() < 0.6) for numero in range(4)]
        al_principio = {cliente: cliente.dentro for cliente in clientes}
        entradas = entradas_al_azar(azar, clientes, 20)
        esperado = {cliente: segun_el_modelo(entradas, cliente)[0] for cliente in clientes}
        recibido = dict.fromkeys(clientes, b'')
        for parte in cortar(entradas, azar, azar.randrange(6)):
            tanda = Tanda(parte)
            for cliente in clientes:
                if cliente.dentro or cliente in tanda.vistas:
                    recibido[cliente] += tanda.para(cliente)
                if cliente in tanda.vistas:
                    cliente.dentro = tanda.vistas[cliente].dentro
        assert recibido == esperado, al_principio


def test_una_tanda_cuenta_lo_comun_aparte_de_lo_dirigido():
    ana = Falso('ana', True)
    tanda = Tanda([Entrada(b'1\n2\n', 2), Entrada(b'solo\n', destino=ana), Entrada(b'3\n', autor=ana)], 7, 40)
    assert (tanda.numero, tanda.linea, tanda.lineas) == (7, 40, 3)
    assert tanda.para(Falso('beto', True)) == b'1\n2\n3\n'
    assert tanda.para(ana) == b'1\n2\nsolo\n' and tanda.lineas_para(ana) == 3


def test_quien_no_esta_en_la_sala_solo_recibe_lo_suyo():
    nuevo = Falso('nuevo', False)
    tanda = Tanda([Entrada(b'antes\n'), Entrada(b'Nick: ', 0, destino=nuevo), Entrada(b'despues\n')])
    assert tanda.para(nuevo) == b'Nick: ' and tanda.lineas_para(nuevo) == 0


def test_quien_entra_a_mitad_ve_desde_ahi_y_quien_sale_hasta_ahi():
    nuevo, viejo = Falso('nuevo', False), Falso('viejo', True)
    tanda = Tanda([Entrada(b'1\n'), Entrada(b'hola\n', destino=nuevo, paso=ENTRA), Entrada(b'2\n'),
                   Entrada(b'adios\n', destino=viejo, paso=SALE), Entrada(b'3\n')])
    assert tanda.para(nuevo) == b'hola\n2\n3\n'
    assert tanda.para(viejo) == b'1\n2\nadios\n'


def test_a_cada_linea_le_toca_un_numero_sea_o_no_para_todos():
    ana, beto = Falso('ana', True, Numeradas), Falso('beto', True, Numeradas)
    tanda = Tanda([Entrada(b'1\n2\n', 2), Entrada(b'solo\n', destino=ana), Entrada(b'3\n', autor=ana), Entrada(b'4\n')],
                  primera=10)
    assert tanda.para(ana) == b'10 1\n11 2\n12 solo\n14 4\n'
    assert tanda.para(beto) == b'10 1\n11 2\n13 3\n14 4\n'
    assert (tanda.primera, tanda.siguiente) == (10, 15)


def test_numerada_o_no_una_tanda_dice_lo_mismo():
    azar = random.Random(12)
    for _ in range(300):
        llanos = [Falso(numero, azar.random() < 0.6) for numero in range(4)]
        entradas = entradas_al_azar(azar, llanos, azar.randrange(20))
        tanda = Tanda(entradas, primera=100)
        for cliente in llanos:
            if cliente.dentro or cliente in tanda.vistas:
                llana = tanda.para(cliente)
                cliente.marco = Numeradas
                numeradas = [linea.split(b' ', 1) for linea in tanda.para(cliente).split(b'\n')[:-1]]
                assert b''.join(linea + b'\n' for _, linea in numeradas) == llana
                numeros = [int(numero) for numero, _ in numeradas]
                assert numeros == sorted(set(numeros)) and all(100 <= numero < tanda.siguiente for numero in numeros)


def test_cortes_y_vueltas_no_son_para_leerlos():
    ana = Falso('ana', True)
    tanda = Tanda([Entrada(b'', 0, destino=ana, paso=CORTE), Entrada(b'1\n'),
                   Entrada(b'#SESION 0 retomada\n', 0, destino=ana, paso=VUELTA)])
    assert [(paso.entrada.paso, paso.numero, paso.vistas) for paso in tanda.pasos] == [(CORTE, 0, 0), (VUELTA, 1, 1)]
    assert tanda.para(ana) == b'1\n'


def test_una_tanda_pesa_lo_que_guarda_de_cada_forma():
    tanda = Tanda([Entrada(b'x' * 1000 + b'\n')])
    antes = tanda.peso
    tanda.para(Falso('ana', True, Numeradas))
    assert antes > 1000 and tanda.peso > antes + 1000


def test_lo_dirigido_tambien_pesa():
    tanda = Tanda([Entrada(b'x' * 1000 + b'\n', destino=Falso('ana', True)) for _ in range(50)])
    assert tanda.peso > 50_000
