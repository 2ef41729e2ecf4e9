"""La sala sin sockets: se publica en ella y se toma su lista, como haría el Repartidor."""

import contextlib
import threading
import time

import pytest

from config import AjustesServidor
from reparto import Repartidor
from sala import SALE, Adios, Cliente, Conexion, Sala
from tandas import Tanda
from tests.utiles import PLAZO, esperar_a


class SalaTomada:
    """Una sala y lo que ha recibido cada cliente, según las tandas que se toman de ella."""

    def __init__(self, **ajustes):
        self.sala = Sala(AjustesServidor(**ajustes))
        self._recibido = {}
        self._clientes = []

    def cliente(self):
        cliente = Cliente(Conexion())
        self.sala.conectar(cliente.conexion)
        self._clientes.append(cliente)
        self._recibido[cliente] = b''
        return cliente

    def entrar(self, pedido):
        cliente = self.cliente()
        assert self.sala.entrar(cliente, pedido)
        self.recibido(cliente)
        return cliente

    def grupo(self, *pedidos):
        clientes = [self.entrar(pedido) for pedido in pedidos]
        for cliente in clientes:
            self.recibido(cliente)
        return clientes

    def _repartir(self):
        tanda = Tanda(self.sala.tomar())
        for cliente in self._clientes:
            if cliente.dentro or cliente in tanda.vistas:
                self._recibido[cliente] += tanda.para(cliente)
        for cliente, vista in tanda.vistas.items():
            cliente.dentro = vista.dentro
        return tanda

    def recibido(self, cliente):
        """Las líneas nuevas de `cliente`."""
        self._repartir()
        datos, self._recibido[cliente] = self._recibido[cliente], b''
        return datos.decode().splitlines()


@pytest.fixture
def tomada():
    return SalaTomada()


# ── Entrar ───────────────────────────────────────────────────────────────────────────────────────────────────────

def test_quien_entra_recibe_su_nick_quien_esta_y_como_pedir_ayuda(tomada):
    tomada.grupo('ana', 'beto')
    carla = tomada.cliente()
    assert tomada.sala.entrar(carla, 'carla')
    avisos = tomada.recibido(carla)
    assert avisos[0] == '* Tu nick es carla'
    assert avisos[-1].startswith('* Hola, carla. Están ana, beto.') and '/ayuda' in avisos[-1]


def test_el_primero_sabe_que_no_hay_nadie(tomada):
    ana = tomada.cliente()
    tomada.sala.entrar(ana, 'ana')
    assert 'No hay nadie más.' in tomada.recibido(ana)[-1]


def test_los_demas_saben_quien_entra_y_el_no_se_ve_entrar(tomada):
    ana, = tomada.grupo('ana')
    beto = tomada.cliente()
    tomada.sala.entrar(beto, 'beto')
    assert tomada.recibido(ana) == ['* beto entró.']
    assert '* beto entró.' not in tomada.recibido(beto)


def test_lo_que_se_dice_antes_de_entrar_no_llega(tomada):
    ana, = tomada.grupo('ana')
    nuevo = tomada.cliente()
    tomada.sala.publicar(ana, ['hola'])
    assert tomada.recibido(nuevo) == []


@pytest.mark.parametrize('pedido', ['', '   ', '\u200b', '\x1b'])
def test_un_nick_vacio_no_entra(tomada, pedido):
    ana, = tomada.grupo('ana')
    nadie = tomada.cliente()
    assert not tomada.sala.entrar(nadie, pedido)
    assert tomada.recibido(ana) == [] and nadie.nick == ''


@pytest.mark.parametrize('pedido', ['ana', 'ANA', 'Ａｎａ'])
def test_un_nick_ocupado_recibe_un_numero_y_un_aviso(tomada, pedido):
    tomada.grupo('ana')
    otra = tomada.cliente()
    tomada.sala.entrar(otra, pedido)
    avisos = tomada.recibido(otra)
    assert avisos[:2] == [f'* Ya hay alguien que se llama {pedido}.', f'* Tu nick es {pedido}_2']


def test_un_nick_arreglado_recibe_la_regla(tomada):
    ana = tomada.cliente()
    tomada.sala.entrar(ana, 'ana maría')
    avisos = tomada.recibido(ana)
    assert avisos[0].startswith('* Un nick tiene ') and avisos[1] == '* Tu nick es ana_maría'


def test_un_nick_queda_libre_cuando_su_dueno_se_va(tomada):
    ana, = tomada.grupo('ana')
    tomada.sala.dejar(ana, ana.conexion)
    assert tomada.entrar('ana').nick == 'ana'


def test_la_sala_llena_no_admite_a_nadie_hasta_que_alguien_se_va():
    tomada = SalaTomada(max_clientes=2)
    ana, _ = tomada.grupo('ana', 'beto')
    with pytest.raises(Adios):
        tomada.sala.conectar(Conexion())
    tomada.sala.dejar(ana, ana.conexion)
    tomada.sala.olvidar(ana.conexion)
    tomada.sala.conectar(Conexion())


def test_el_ultimo_sitio_es_para_uno_solo():
    sala = Sala(AjustesServidor(max_clientes=5))
    salida, admitidos = threading.Barrier(20), []

    def intentar():
        salida.wait(PLAZO)
        try:
            sala.conectar(Conexion())
            admitidos.append(True)
        except Adios:
            admitidos.append(False)

    hilos = [threading.Thread(target=intentar, daemon=True) for _ in range(20)]
    for hilo in hilos:
        hilo.start()
    for hilo in hilos:
        hilo.join(PLAZO)
    assert sorted(admitidos) == [False] * 15 + [True] * 5


def test_muchos_que_piden_a_la_vez_el_mismo_nick_tienen_nicks_distintos():
    sala = Sala()
    clientes, salida = [Cliente() for _ in range(30)], threading.Barrier(30)

    def entrar(cliente):
        salida.wait(PLAZO)
        sala.entrar(cliente, 'ana')

    hilos = [threading.Thread(target=entrar, args=(cliente,), daemon=True) for cliente in clientes]
    for hilo in hilos:
        hilo.start()
    for hilo in hilos:
        hilo.join(PLAZO)
    assert {cliente.nick for cliente in clientes} == {'ana', *(f'ana_{numero}' for numero in range(2, 31))}


# ── Hablar ───────────────────────────────────────────────────────────────────────────────────────────────────────

def test_el_emisor_no_recibe_su_mensaje(tomada):
    ana, beto = tomada.grupo('ana', 'beto')
    tomada.sala.publicar(ana, ['hola'])
    assert tomada.recibido(beto) == ['[ana] hola']
    assert tomada.recibido(ana) == []


def test_todos_ven_el_mismo_orden(tomada):
    ana, beto, carla = tomada.grupo('ana', 'beto', 'carla')
    for numero in range(20):
        tomada.sala.publicar((ana, beto)[numero % 2], [f'{numero}a', f'{numero}b'])
    todo = tomada.recibido(carla)
    assert [linea.split()[1] for linea in todo] == [f'{n}{letra}' for n in range(20) for letra in 'ab']
    assert tomada.recibido(ana) == [linea for linea in todo if linea.startswith('[beto]')]
    assert tomada.recibido(beto) == [linea for linea in todo if linea.startswith('[ana]')]


def test_lo_dirigido_guarda_su_orden_con_lo_comun(tomada):
    ana, beto = tomada.grupo('ana', 'beto')
    tomada.sala.publicar(ana, ['uno'])
    tomada.sala.decir(beto, '* solo para ti')
    tomada.sala.publicar(ana, ['dos'])
    assert tomada.recibido(beto) == ['[ana] uno', '* solo para ti', '[ana] dos']
    assert tomada.recibido(ana) == []


def test_con_muchos_hilos_no_se_pierde_ninguna_entrada_ni_se_desordenan_las_de_cada_uno():
    sala, autores, cuantos = Sala(), [Cliente() for _ in range(8)], 2000
    for numero, autor in enumerate(autores):
        sala.entrar(autor, f'autor{numero}')
    sala.tomar()
    salida = threading.Barrier(len(autores))

    def publicar(autor):
        salida.wait(PLAZO)
        for numero in range(cuantos):
            sala.publicar(autor, [str(numero)])

    hilos = [threading.Thread(target=publicar, args=(autor,), daemon=True) for autor in autores]
    for hilo in hilos:
        hilo.start()
    tomadas = []
    esperar_a(lambda: tomadas.extend(sala.tomar()) or len(tomadas) >= cuantos * len(autores), 'que llegue todo')
    for hilo in hilos:
        hilo.join(PLAZO)
    assert sala.tomar() == [] and sala.mensajes == cuantos * len(autores)
    for autor in autores:
        suyas = [entrada.datos for entrada in tomadas if entrada.autor is autor]
        assert suyas == [f'[{autor.nick}] {numero}\n'.encode() for numero in range(cuantos)]


def test_un_privado_llega_solo_a_su_destino(tomada):
    ana, beto, carla = tomada.grupo('ana', 'beto', 'carla')
    tomada.sala.decir(tomada.sala.buscar('BETO'), '[ana] (privado) psst')
    assert tomada.recibido(beto) == ['[ana] (privado) psst']
    assert tomada.recibido(ana) == tomada.recibido(carla) == []


def test_buscar_a_quien_no_esta_no_encuentra_a_nadie(tomada):
    ana, = tomada.grupo('ana')
    assert tomada.sala.buscar('beto') is None
    tomada.sala.dejar(ana, ana.conexion)
    assert tomada.sala.buscar('ana') is None


def test_se_dice_quien_esta_y_cuantos_no_caben(tomada):
    tomada.grupo('ana', 'beto', 'carla')
    assert tomada.sala.describir_presentes() == 'Están ana, beto, carla.'
    assert tomada.sala.describir_presentes(2) == 'Están ana, beto y 1 más.'


# ── Los últimos mensajes ─────────────────────────────────────────────────────────────────────────────────────────

def test_quien_entra_recibe_los_ultimos_mensajes_en_su_orden():
    tomada = SalaTomada(historial=3)
    ana, beto = tomada.grupo('ana', 'beto')
    tomada.sala.publicar(ana, ['1', '2'])
    tomada.sala.publicar(beto, ['3'])
    tomada.sala.publicar(ana, ['4'])
    tomada.sala.decir(ana, '* esto no es un mensaje')
    nuevo = tomada.cliente()
    tomada.sala.entrar(nuevo, 'nuevo')
    assert [linea for linea in tomada.recibido(nuevo) if linea.startswith('[')] == ['[ana] 2', '[beto] 3', '[ana] 4']


def test_un_texto_pegado_mas_largo_que_el_historial_deja_sus_ultimas_lineas():
    tomada = SalaTomada(historial=2)
    ana, = tomada.grupo('ana')
    tomada.sala.publicar(ana, [str(numero) for numero in range(10)])
    nuevo = tomada.cliente()
    tomada.sala.entrar(nuevo, 'nuevo')
    assert [linea for linea in tomada.recibido(nuevo) if linea.startswith('[')] == ['[ana] 8', '[ana] 9']


def test_sin_historial_no_se_recibe_nada_de_antes():
    tomada = SalaTomada(historial=0)
    ana, = tomada.grupo('ana')
    tomada.sala.publicar(ana, ['hola'])
    nuevo = tomada.cliente()
    tomada.sala.entrar(nuevo, 'nuevo')
    assert not [linea for linea in tomada.recibido(nuevo) if 'hola' in linea]


def test_nadie_recibe_dos_veces_lo_que_se_dice_mientras_entra(tomada):
    ana, = tomada.grupo('ana')
    nuevo = tomada.cliente()
    tomada.sala.publicar(ana, ['antes'])
    tomada.sala.entrar(nuevo, 'nuevo')
    tomada.sala.publicar(ana, ['despues'])
    assert [linea for linea in tomada.recibido(nuevo) if linea.startswith('[')] == ['[ana] antes', '[ana] despues']


# ── Cambiar de nick y salir ──────────────────────────────────────────────────────────────────────────────────────

def test_un_cambio_de_nick_se_anuncia_a_los_demas_y_se_confirma(tomada):
    ana, beto = tomada.grupo('ana', 'beto')
    assert tomada.sala.cambiar_nick(ana, 'anita')
    assert tomada.recibido(beto) == ['* ana ahora es anita.']
    assert tomada.recibido(ana) == ['* Tu nick es anita']
    assert tomada.sala.buscar('anita') is ana and tomada.sala.buscar('ana') is None


def test_lo_que_se_dice_tras_cambiar_de_nick_lleva_el_nuevo(tomada):
    ana, beto = tomada.grupo('ana', 'beto')
    tomada.sala.cambiar_nick(ana, 'anita')
    tomada.sala.publicar(ana, ['hola'])
    assert tomada.recibido(beto)[-1] == '[anita] hola'


def test_cambiar_a_un_nick_ocupado_da_un_numero(tomada):
    ana, beto = tomada.grupo('ana', 'beto')
    tomada.sala.cambiar_nick(ana, 'Beto')
    assert tomada.recibido(ana) == ['* Ya hay alguien que se llama Beto.', '* Tu nick es Beto_2']
    assert tomada.sala.buscar('beto') is beto


def test_cambiar_al_mismo_nick_no_se_anuncia(tomada):
    ana, beto = tomada.grupo('ana', 'beto')
    assert tomada.sala.cambiar_nick(ana, 'ana')
    assert tomada.recibido(beto) == [] and tomada.recibido(ana) == ['* Tu nick es ana']


def test_cambiar_a_un_nick_vacio_no_cambia_nada(tomada):
    ana, beto = tomada.grupo('ana', 'beto')
    assert not tomada.sala.cambiar_nick(ana, ' \u200b ')
    assert tomada.sala.buscar('ana') is ana and tomada.recibido(beto) == []


def test_quien_sale_recibe_lo_anterior_y_su_despedida_y_nada_mas(tomada):
    ana, beto = tomada.grupo('ana', 'beto')
    tomada.sala.publicar(beto, ['antes'])
    tomada.sala.dejar(ana, ana.conexion, 'Hasta luego.')
    tomada.sala.publicar(beto, ['despues'])
    assert tomada.recibido(ana) == ['[beto] antes', '* Hasta luego.']
    assert tomada.recibido(beto) == ['* ana salió.']


def test_quien_sale_sin_haber_entrado_no_se_anuncia(tomada):
    ana, = tomada.grupo('ana')
    nadie = tomada.cliente()
    tomada.sala.dejar(nadie, nadie.conexion, 'Adiós.')
    assert tomada.recibido(ana) == [] and tomada.recibido(nadie) == ['* Adiós.']


def test_lo_ultimo_de_quien_sale_es_su_salida(tomada):
    ana, = tomada.grupo('ana')
    tomada.sala.dejar(ana, ana.conexion)
    assert tomada.sala.tomar()[-1].paso == SALE


# ── La lista llena, y el cierre ──────────────────────────────────────────────────────────────────────────────────

def hablar_con_la_lista_llena(sala, hablar):
    """Llena la lista, lanza `hablar` en otro hilo y espera a que esté parado en ella. Devuelve el hilo."""
    ana = Cliente()
    sala.entrar(ana, 'ana')
    while sala._pendiente <= sala.ajustes.max_pendiente:
        sala.publicar(ana, ['x' * 50])
    hilo = threading.Thread(target=hablar, args=(ana,), daemon=True)
    hilo.start()
    esperar_a(lambda: sala._hueco._waiters, 'que el hilo espere')
    return hilo


HABLAR = [lambda sala, ana: sala.publicar(ana, ['el que espera']), lambda sala, ana: sala.decir(ana, 'el que espera')]


@pytest.mark.parametrize('hablar', HABLAR, ids=['publicar', 'decir'])
def test_con_la_lista_llena_se_espera_a_que_se_vacie(hablar):
    sala = Sala(AjustesServidor(max_pendiente=1000))
    hilo = hablar_con_la_lista_llena(sala, lambda ana: hablar(sala, ana))
    assert all(b'el que espera' not in entrada.datos for entrada in sala.tomar())
    hilo.join(PLAZO)
    assert not hilo.is_alive()
    entrada, = sala.tomar()
    assert entrada.datos.endswith(b'el que espera\n')


@pytest.mark.parametrize('hablar', HABLAR, ids=['publicar', 'decir'])
def test_con_la_lista_llena_el_cierre_suelta_a_quien_espera_y_no_acepta_lo_suyo(hablar):
    sala, soltados = Sala(AjustesServidor(max_pendiente=1000)), []

    def hablar_y_soltarse(ana):
        try:
            hablar(sala, ana)
        except Adios:
            soltados.append(ana)

    hilo = hablar_con_la_lista_llena(sala, hablar_y_soltarse)
    sala.cerrar('Se acabó.')
    hilo.join(PLAZO)
    assert not hilo.is_alive() and len(soltados) == 1
    assert 'el que espera' not in ''.join(entrada.datos.decode() for entrada in sala.tomar())


def test_con_la_lista_llena_la_memoria_no_crece():
    sala = Sala(AjustesServidor(max_pendiente=1000))
    autores = [Cliente() for _ in range(10)]
    for numero, autor in enumerate(autores):
        sala.entrar(autor, f'a{numero}')
    sala.tomar()
    parar = threading.Event()

    def publicar(autor):
        with contextlib.suppress(Adios):
            while not parar.is_set():
                sala.publicar(autor, ['x' * 100])

    hilos = [threading.Thread(target=publicar, args=(autor,), daemon=True) for autor in autores]
    for hilo in hilos:
        hilo.start()
    esperar_a(lambda: len(sala._hueco._waiters) == len(autores), 'que todos esperen')
    assert sum(len(entrada.datos) for entrada in sala._lista) <= 1000 + 200
    parar.set()
    sala.cerrar('Se acabó.')
    for hilo in hilos:
        hilo.join(PLAZO)
        assert not hilo.is_alive()


def test_salir_y_entrar_no_esperan_a_la_lista_llena():
    sala = Sala(AjustesServidor(max_pendiente=1000))
    hilo = hablar_con_la_lista_llena(sala, lambda ana: sala.publicar(ana, ['fin']))
    beto = Cliente()
    assert sala.entrar(beto, 'beto')
    sala.dejar(beto, beto.conexion)
    sala.tomar()
    hilo.join(PLAZO)
    assert not hilo.is_alive()


def test_al_cerrar_se_avisa_a_todos_y_no_entra_nadie(tomada):
    ana, beto = tomada.grupo('ana', 'beto')
    a_medias = tomada.cliente()
    tomada.sala.cerrar('Se acabó.')
    assert tomada.recibido(ana) == tomada.recibido(beto) == ['* Se acabó.']
    with pytest.raises(Adios):
        tomada.sala.conectar(Conexion())
    with pytest.raises(Adios):
        tomada.sala.entrar(a_medias, 'carla')
    assert tomada.recibido(ana) == []


def test_se_despierta_al_repartidor_solo_si_se_habia_dormido(tomada):
    sala, toques = tomada.sala, []
    sala.despertar = lambda: toques.append(1)
    ana = Cliente()
    sala.entrar(ana, 'ana')
    assert toques == []
    while sala.tomar():
        pass
    sala.publicar(ana, ['uno'])
    sala.publicar(ana, ['dos'])
    assert toques == [1]
    assert len(sala.tomar()) == 2


def test_terminar_un_repartidor_que_ya_ha_acabado_no_es_un_error():
    repartidor = Repartidor(Sala())
    tocar = repartidor._despertador.tocar

    def tocar_cuando_ya_ha_acabado():
        tocar()     # como el aviso de `Sala.cerrar`, que puede despertarlo antes que `terminar`
        repartidor._hilo.join(PLAZO)
        tocar()

    repartidor._despertador.tocar = tocar_cuando_ya_ha_acabado
    repartidor.terminar(time.monotonic() + PLAZO)
    assert not repartidor._hilo.is_alive()


def test_hablar_cuando_el_repartidor_ya_ha_acabado_no_es_un_error():
    sala = Sala()
    Repartidor(sala).terminar(time.monotonic())
    ana = Cliente()
    sala.entrar(ana, 'ana')
    while sala.tomar():
        pass        # hasta encontrarla vacía: quien hable ahora intentará despertarlo
    sala.publicar(ana, ['tarde'])
