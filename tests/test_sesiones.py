"""Sesiones que sobreviven a los cortes, contra un servidor de verdad en este proceso."""

import secrets
import threading

import pytest

from tests.utiles import PLAZO, Persona, esperar_a, servidor


class Sesion:
    """Quien abre una sesión: apunta lo que recibe, con su número, y lo que el servidor dice haber aceptado."""

    def __init__(self, charla, nick=None, ficha=None, **conexion):
        self.charla, self.ficha, self._conexion = charla, ficha or secrets.token_hex(16), conexion
        self.visto, self.lineas, self.acuses = 0, [], []
        self.conectar()
        if nick:
            assert self.respuesta == '#SESION 0 nueva'
            self.persona.decir(nick)
            self.hasta(f'* Hola, {nick}')

    def conectar(self):
        self.persona = self.charla.conectar(**self._conexion)
        self.persona.decir(f'#SESION {self.ficha} {self.visto}')
        self.respuesta = self.persona.linea()

    def decir(self, *lineas):
        self.persona.decir(*lineas)

    def anotar(self, linea):
        numero, _, linea = linea.partition(' ')
        assert int(numero) > self.visto, f'{numero} tras {self.visto}: {linea}'
        self.visto = int(numero)
        (self.acuses if linea.startswith('#VIVO ') else self.lineas).append(linea)
        return linea

    def hasta(self, comienzo):
        """Lee hasta una línea que empiece así. Devuelve las nuevas."""
        antes = len(self.lineas)
        while not self.anotar(self.persona.linea()).startswith(comienzo):
            pass
        return self.lineas[antes:]

    def aceptadas(self):
        """Cuántas dice el servidor que ha aceptado."""
        self.decir('#VIVO')
        return int(self.hasta('#VIVO ') is not None and self.acuses[-1].split()[1])

    def final(self):
        for linea in self.persona.hasta_el_final():
            self.anotar(linea)

    def cortar(self):
        self.persona.romper()

    def volver(self):
        self.conectar()
        return self.respuesta


@pytest.fixture
def luis(charla):
    return charla.persona('luis')


def esperar_corte(charla, nick='ana'):
    esperar_a(lambda: f'{nick} (reconectando)' in charla.sala.describir_presentes(), f'que se note el corte de {nick}')


# ── Abrir ────────────────────────────────────────────────────────────────────────────────────────────────────────

def test_quien_abre_sesion_ve_numeros_que_crecen_y_los_demas_no(charla, luis):
    ana = Sesion(charla, 'ana')
    luis.decir('hola', '/ayuda', 'adiós')
    assert ana.hasta('[luis] adiós') == ['[luis] hola', '[luis] adiós']
    ana.decir('¿qué tal?')
    assert '[ana] ¿qué tal?' in luis.hasta('[ana] ¿qué tal?')


def test_hasta_que_se_entra_nada_lleva_numero():
    """Quien abandona una conexión a mitad puede acabar entrando por ella, y volver con lo que vio por otra."""
    with servidor(clave='abc', pausa_clave=0) as charla:
        luis = charla.conectar()
        luis.decir('luis', 'abc')
        luis.hasta(lambda linea: linea.startswith('* Hola, '))
        lenta, ana = Sesion(charla), None
        lenta.decir('ana')
        assert lenta.persona.linea() == '#CLAVE'
        ana = Sesion(charla, ficha=lenta.ficha)
        lenta.decir('abc')
        luis.hasta('* ana entró.')
        luis.decir('importante')
        ana.decir('ana')
        assert ana.persona.linea() == '#CLAVE'
        ana.decir('mala')
        assert ana.persona.linea() == '* Clave incorrecta.'
        assert ana.persona.linea() == '#CLAVE'
        ana.decir('abc')
        assert ana.persona.hasta_el_final() == []
        assert ana.volver() == '#SESION 0 retomada'
        assert ana.hasta('[luis] importante')[0] == '* Tu nick es ana'


def test_una_pregunta_con_el_prefijo_propio_es_un_mensaje_y_cuenta(charla, luis):
    ana = Sesion(charla, 'ana')
    ana.decir('uno', '[ana] #VIVO', 'dos')
    assert luis.hasta('[ana] dos')[-3:] == ['[ana] uno', '[ana] #VIVO', '[ana] dos']
    assert ana.aceptadas() == 3


def test_a_quien_tarda_en_abrir_la_sesion_se_le_pregunta_pero_la_abre():
    with servidor(espera_pregunta=0.01) as charla:
        persona = charla.conectar()
        assert persona.crudo(6) == b'Nick: '
        persona.decir('#SESION ' + 'a' * 32 + ' 0')
        assert persona.linea() == '#SESION 0 nueva'
        persona.decir('ana')
        assert persona.linea().endswith(' * Tu nick es ana')


@pytest.mark.parametrize('mala', ['#SESION', '#SESION x 0', '#SESION ' + 'a' * 31 + ' 0', '#SESION ' + 'A' * 32 + ' 0',
                                  '#SESION ' + 'a' * 32 + ' -1', '#SESION ' + 'a' * 32])
def test_una_sesion_mal_pedida_se_explica_y_se_cierra(charla, mala):
    persona = charla.conectar()
    persona.decir(mala)
    aviso, = persona.hasta_el_final()
    assert 'no se entiende' in aviso


def test_preguntar_si_sigue_vivo_no_lo_ve_nadie_y_dice_lo_aceptado(charla, luis):
    ana = Sesion(charla, 'ana')
    assert luis.linea() == '* ana entró.'
    ana.decir('uno', '', '/usuarios', 'x' * 201)
    assert ana.aceptadas() == 4
    ana.decir('dos')
    assert [luis.linea(), luis.linea()] == ['[ana] uno', '[ana] dos']


# ── Cortarse y volver ────────────────────────────────────────────────────────────────────────────────────────────

def test_quien_vuelve_recibe_una_vez_y_en_orden_lo_que_se_dijo_y_nadie_se_entera(charla, luis):
    ana = Sesion(charla, 'ana')
    luis.decir('antes')
    ana.hasta('[luis] antes')
    ana.cortar()
    esperar_corte(charla)
    luis.decir('/usuarios', *map(str, range(90)), '/privado ana psst')
    assert luis.hasta(lambda linea: linea.startswith('* Está'))[-1] == '* Están luis, ana (reconectando).'
    luis.hasta('* Enviado a ana en privado. Está reconectando: lo recibirá si vuelve.')
    assert ana.volver() == '#SESION 0 retomada'
    assert ana.hasta('[luis] (privado)') == [f'[luis] {n}' for n in range(90)] + ['[luis] (privado) psst']
    luis.decir('/usuarios', 'después')
    assert ana.hasta('[luis] después') == ['[luis] después']
    assert luis.linea() == '* Están luis, ana.'


def test_lo_que_iba_por_el_cable_se_recibe_al_volver_se_cortara_donde_se_cortara(charla, luis):
    ana = Sesion(charla, 'ana')
    luis.decir('uno', '/privado ana dos', '/privado ana tres', 'cuatro', 'fin')
    ana.hasta('[luis] uno')
    esperadas = ['[luis] uno', '[luis] (privado) dos', '[luis] (privado) tres', '[luis] cuatro', '[luis] fin']
    vistos = [ana.visto]
    for esperada in esperadas[1:]:
        ana.hasta(esperada)
        vistos.append(ana.visto)
    for puesto, visto in enumerate(vistos[:-1], 1):
        ana.cortar()
        esperar_corte(charla)
        ana.visto = visto
        assert ana.volver() == '#SESION 0 retomada'
        assert ana.hasta('[luis] fin') == esperadas[puesto:]


def test_de_lo_enviado_se_acepta_lo_que_llego_entero_y_una_sola_vez(charla, luis):
    ana = Sesion(charla, 'ana')
    ana.decir('uno', 'dos')
    ana.persona.enviar('tr'.encode())
    luis.hasta('[ana] dos')
    ana.cortar()
    esperar_corte(charla)
    assert ana.volver() == '#SESION 2 retomada'
    ana.decir('tres')
    assert luis.linea() == '[ana] tres'


def test_una_linea_a_medias_en_un_corte_limpio_no_se_publica(charla, luis):
    ana = Sesion(charla, 'ana')
    ana.persona.enviar(b'uno\nesto iba por la mit')
    ana.persona.terminar_de_hablar()
    esperar_corte(charla)
    assert ana.volver() == '#SESION 1 retomada'
    ana.decir('esto iba por la mitad')
    assert luis.hasta('[ana] esto iba por la mitad')[-2:] == ['[ana] uno', '[ana] esto iba por la mitad']


def test_una_conexion_viva_se_releva_por_la_nueva(charla, luis):
    ana = Sesion(charla, 'ana')
    fantasma = ana.persona
    assert ana.volver() == '#SESION 0 retomada'
    fantasma.decir('desde la vieja')
    ana.decir('desde la nueva')
    assert fantasma.hasta_el_final() == []
    assert luis.hasta('[ana] desde la nueva') == ['* ana entró.', '[ana] desde la nueva']
    esperar_a(lambda: len(charla.sala.conexiones()) == 2, 'que se cierre la vieja')


def test_una_tormenta_de_relevos_deja_una_conexion_y_no_pierde_nada(charla, luis):
    ana = Sesion(charla, 'ana')
    relevos = [charla.conectar() for _ in range(30)]
    for persona in relevos:
        persona.decir(f'#SESION {ana.ficha} {ana.visto}')
    charla.persona('última')        # se aceptan por orden: ya no queda ninguno en la puerta
    luis.decir('uno', 'dos')
    esperar_a(lambda: len(charla.sala.conexiones()) == 3, 'que de ana quede una')
    assert ana.volver() == '#SESION 0 retomada'
    assert ana.hasta('[luis] dos') == ['* última entró.', '[luis] uno', '[luis] dos']
    esperar_a(lambda: len(charla.sala.conexiones()) == 3, 'que de ana quede una')


def test_una_ficha_ajena_no_da_nada(charla, luis):
    ana = Sesion(charla, 'ana')
    otra = Sesion(charla, ficha=ana.ficha[::-1])
    assert otra.respuesta == '#SESION 0 nueva'
    luis.decir('secreto')
    ana.hasta('[luis] secreto')
    otra.decir('/salir')
    assert all('secreto' not in linea for linea in otra.persona.hasta_el_final())


# ── Ausencias ────────────────────────────────────────────────────────────────────────────────────────────────────

def test_quien_no_vuelve_a_tiempo_ha_salido():
    with servidor(plazo_ausencia=0.05) as charla:
        luis = charla.persona('luis')
        ana = Sesion(charla, 'ana')
        ana.cortar()
        assert luis.hasta('* ana salió.') == ['* ana entró.', '* ana salió.']
        assert charla.persona('ana').nick == 'ana'


def test_quien_vuelve_tarde_entra_otra_vez_sin_perder_ni_repetir_nada():
    with servidor(plazo_ausencia=0.05) as charla:
        luis = charla.persona('luis')
        ana = Sesion(charla, 'ana')
        ana.decir('uno')
        luis.hasta('[ana] uno')
        ana.cortar()
        luis.decir('dos')
        luis.hasta('* ana salió.')
        otra = charla.persona('ana')
        luis.decir('tres')
        otra.hasta('[luis] tres')
        assert ana.volver() == '#SESION 1 retomada'
        assert ana.hasta('* Hola, ana_2') == ['[luis] dos', '* ana entró.', '[luis] tres',
                                              '* Ya hay alguien que se llama ana.', '* Tu nick es ana_2', ana.lineas[-1]]
        assert luis.hasta('* ana_2 entró.') == ['* ana entró.', '* ana_2 entró.']
        ana.decir('cuatro')
        assert luis.linea() == '[ana_2] cuatro'


def test_mas_alla_de_la_memoria_se_dice_cuantos_se_perdieron():
    with servidor(max_memoria=20_000, ritmo=0) as charla:
        luis, eva = charla.persona('luis'), charla.persona('eva')
        ana = Sesion(charla, 'ana')
        luis.decir('antes')
        ana.hasta('[luis] antes')
        ana.cortar()
        esperar_corte(charla)
        total = 600
        for numero in range(total):     # de una en una, y con lo de otros por medio: muchas tandas
            luis.decir(str(numero), '/usuarios')
            eva.hasta(f'[luis] {numero}')
        luis.hasta(lambda linea: linea.startswith('* Están '))
        assert ana.volver() == '#SESION 0 retomada'
        lineas = ana.hasta(f'[luis] {total - 1}')
        perdidos = int(lineas[0].removeprefix('* Te perdiste ').removesuffix(' mensajes.'))
        assert 0 < perdidos < total
        assert lineas[1:] == [f'[luis] {numero}' for numero in range(perdidos, total)]


def test_las_sesiones_sin_conexion_estan_acotadas_y_se_olvida_la_mas_antigua():
    with servidor(max_ausentes=2) as charla:
        luis = charla.persona('luis')
        sesiones = [Sesion(charla, nick) for nick in ('ana', 'eva', 'sol')]
        for sesion, nick in zip(sesiones, ('ana', 'eva', 'sol')):
            sesion.cortar()
            esperar_a(lambda nick=nick: any(f'~ {nick} ' in apunte for apunte in charla.apuntes), 'que se note el corte')
        luis.hasta('* ana salió.')
        assert [sesion.volver() for sesion in sesiones] == ['#SESION 0 nueva', '#SESION 0 retomada', '#SESION 0 retomada']


def test_una_direccion_no_hace_olvidar_las_sesiones_de_las_demas():
    with servidor(max_ausentes=5, max_ausentes_por_ip=2) as charla:
        ana = Sesion(charla, 'ana')
        ana.cortar()
        esperar_corte(charla)
        for numero in range(10):
            otra = Sesion(charla, f'otra{numero}', origen='127.0.0.2')
            otra.cortar()
            esperar_a(lambda: not charla.sala.conexiones(), 'que se note el corte')
        assert ana.volver() == '#SESION 0 retomada' and otra.volver() == '#SESION 0 retomada'
        assert len(charla.sala._sesiones) == 3 and len(charla.sala._presentes) == 3


@pytest.mark.parametrize('limites', [dict(max_ausentes=3), dict(max_ausentes=1), dict(max_ausentes_por_ip=1)])
def test_antes_se_olvida_a_quienes_se_fueron_que_a_quien_se_ha_cortado(limites):
    with servidor(**limites) as charla:
        ana = Sesion(charla, 'ana')
        ana.cortar()
        esperar_corte(charla)
        for numero in range(10):
            otra = Sesion(charla, f'otra{numero}')
            otra.decir('/salir')
            otra.final()
        esperar_a(lambda: not charla.sala.conexiones(), 'que se cierren')
        assert len(charla.sala._sesiones) == len(charla.sala._apartados) <= 3
        assert ana.volver() == '#SESION 0 retomada'


def test_las_sesiones_de_quienes_se_van_tambien_estan_acotadas():
    with servidor(max_ausentes=3) as charla:
        for numero in range(10):
            sesion = Sesion(charla, f'ana{numero}')
            sesion.decir('/salir')
            sesion.final()
        esperar_a(lambda: not charla.sala.conexiones(), 'que se cierren')
        assert len(charla.sala._sesiones) == len(charla.sala._apartados) == 3


# ── Irse y cerrar ────────────────────────────────────────────────────────────────────────────────────────────────

def test_quien_se_va_sabe_que_todo_se_acepto(charla, luis):
    ana = Sesion(charla, 'ana')
    ana.decir('uno', '#LOGOUT')
    ana.final()
    assert ana.lineas[-1] == '* Hasta luego, ana.' and ana.acuses == ['#VIVO 2']
    assert luis.hasta('* ana salió.')[-2:] == ['[ana] uno', '* ana salió.']


def test_quien_se_corto_al_irse_vuelve_solo_a_ver_el_final(charla, luis):
    ana = Sesion(charla, 'ana')
    luis.decir('antes')
    visto = ana.visto
    ana.hasta('[luis] antes')
    ana.decir('#LOGOUT')
    luis.hasta('* ana salió.')
    luis.decir('después')
    ana.cortar()
    ana.visto = visto
    for _ in range(2):
        ana.visto, ana.lineas = visto, []
        assert ana.volver() == '#SESION 1 retomada'
        ana.final()
        assert ana.lineas == ['[luis] antes', '* Hasta luego, ana.']
    luis.decir('/usuarios')
    assert luis.linea() == '* Está luis.'


def test_al_cerrar_se_dice_a_cada_sesion_cuanto_se_acepto(charla, luis):
    ana = Sesion(charla, 'ana')
    ana.decir('uno', 'dos')
    luis.hasta('[ana] dos')
    charla.parar()
    ana.final()
    assert '* El servidor se cierra. Hasta luego.' in ana.lineas and ana.acuses == ['#VIVO 2']


def test_al_cerrar_no_se_acepta_lo_que_esperaba_su_turno():
    with servidor(rafaga=10, ritmo=0.001) as charla:
        luis = charla.persona('luis')
        ana = Sesion(charla, 'ana')
        ana.decir(*map(str, range(500)))
        luis.hasta('[ana] 8')
        charla.parar()
        oidas = sum(linea.startswith('[ana] ') for linea in luis.hasta_el_final()) + 9
        ana.final()
        assert ana.acuses[-1] == f'#VIVO {oidas}'


def test_al_cerrar_con_ausentes_y_relevos_a_medias_no_queda_nada(charla):
    for numero in range(5):
        Sesion(charla, f'ana{numero}').cortar()
    viva = Sesion(charla, 'viva')
    relevos = [Persona(charla.direccion) for _ in range(5)]
    for persona in relevos:
        charla.personas.append(persona)
        persona.decir(f'#SESION {viva.ficha} 0')
    charla.parar()      # el resto lo comprueba `servidor` al salir


# ── El ritmo ─────────────────────────────────────────────────────────────────────────────────────────────────────

def test_a_quien_va_frenado_se_le_sigue_diciendo_que_se_le_oye():
    with servidor(ritmo=5, rafaga=1, latido=0.1) as charla:
        ana = Sesion(charla, 'ana')
        ana.decir('uno', 'dos', 'tres', 'cuatro')
        ana.hasta('#VIVO ')
        assert ana.acuses[-1] in ('#VIVO 0', '#VIVO 1', '#VIVO 2', '#VIVO 3')


def test_volver_no_da_otra_rafaga_y_lo_no_aceptado_se_envia_de_nuevo():
    with servidor(ritmo=10, rafaga=10) as charla:
        luis = charla.persona('luis')
        ana = Sesion(charla, 'ana')
        lineas = [str(numero) for numero in range(40)]
        ana.decir(*lineas)
        luis.hasta('[ana] 9')
        for _ in range(5):
            aceptadas = int(ana.volver().split()[1])    # la anterior queda a medias, esperando a su ritmo
            assert ana.respuesta.endswith('retomada')
            ana.decir(*lineas[aceptadas:])
        assert aceptadas < 40
        assert luis.hasta('[ana] 39')[-30:] == [f'[ana] {linea}' for linea in lineas[10:]]
        freno = charla.cliente('ana').freno
        assert freno._fichas < 10


def test_dos_conexiones_que_estrenan_a_la_vez_la_misma_ficha_son_una_persona(charla):
    una, otra = Sesion(charla, ficha='a' * 32), Sesion(charla, ficha='a' * 32)
    assert una.respuesta == otra.respuesta == '#SESION 0 nueva'
    una.decir('ana')
    una.hasta('* Hola, ana')
    otra.decir('ana')
    assert otra.persona.hasta_el_final() == []
    assert otra.volver() == '#SESION 0 retomada'
    assert otra.hasta('* Hola, ana')[0] == '* Tu nick es ana'


def test_con_muchos_que_se_cortan_sin_parar_nadie_pierde_ni_repite_nada():
    nicks, cuantas, vueltas = ('ana', 'eva', 'sol', 'leo'), 300, 12
    with servidor(ritmo=0) as charla:
        sesiones = [Sesion(charla, nick) for nick in nicks]
        testigo = charla.persona('testigo')

        def hablar(sesion, nick):
            lineas = [f'{nick} {numero}' for numero in range(cuantas)]
            for vuelta in range(vueltas):
                aceptadas = int(sesion.respuesta.split()[1])
                limite = cuantas if vuelta == vueltas - 1 else aceptadas + cuantas // vueltas
                sesion.decir(*lineas[aceptadas:limite])
                if vuelta < vueltas - 1:
                    sesion.anotar(sesion.persona.linea())
                    sesion.cortar()
                    sesion.volver()

        hilos = [threading.Thread(target=hablar, args=par, daemon=True) for par in zip(sesiones, nicks)]
        for hilo in hilos:
            hilo.start()
        for hilo in hilos:
            hilo.join(PLAZO)
            assert not hilo.is_alive()
        todo = [linea for linea in testigo.mensajes(cuantas * len(nicks))]
        testigo.decir('fin')
        for sesion, nick in zip(sesiones, nicks):
            sesion.hasta('[testigo] fin')
            ajenas = [linea for linea in todo if not linea.startswith(f'[{nick}] ')]
            assert [linea for linea in sesion.lineas if linea.startswith('[')] == [*ajenas, '[testigo] fin']
            assert [linea for linea in todo if linea.startswith(f'[{nick}] ')] == \
                [f'[{nick}] {nick} {numero}' for numero in range(cuantas)]
