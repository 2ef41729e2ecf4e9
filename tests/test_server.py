"""El servidor por sus sockets: cada promesa, con personas de verdad en un puerto libre."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

import conversacion
import protocolo
import reparto
import server
from config import MAX_LINEA
from red import apagar
from tests.utiles import PLAZO, RAIZ, Persona, Proceso, esperar_a, servidor, sockets_abiertos

SOLO_POSIX = pytest.mark.skipif(os.name == 'nt', reason='Windows no tiene estas señales ni estos límites')


# ── Mensajes y trozos ────────────────────────────────────────────────────────────────────────────────────────────

def test_el_emisor_no_recibe_su_mensaje(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir('hola')
    assert beto.linea() == '[ana] hola'
    beto.decir('adiós')
    assert ana.linea() == '[beto] adiós'


def test_dos_mensajes_en_un_envio_llegan_como_dos(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.enviar(b'uno\ndos\n')
    assert [beto.linea(), beto.linea()] == ['[ana] uno', '[ana] dos']


def test_un_mensaje_de_byte_en_byte_llega_como_uno(charla):
    ana, beto = charla.grupo('ana', 'beto')
    for byte in '¡qué año! 😀\r\n'.encode():
        ana.enviar(bytes([byte]))
    ana.decir('fin')
    assert beto.hasta('[ana] fin') == ['[ana] ¡qué año! 😀', '[ana] fin']


def test_el_nick_y_los_mensajes_pueden_llegar_en_un_solo_envio(charla):
    ana, = charla.grupo('ana')
    beto = charla.conectar()
    beto.decir('[beto] hola', 'qué tal', '[beto] bien')
    assert ana.hasta('[beto] bien') == ['* beto entró.', '[beto] hola', '[beto] qué tal', '[beto] bien']


@pytest.mark.parametrize('texto', ['áéíóú ü ñ Ñ ¿? ¡!', '😀 👨‍👩‍👧 🇪🇸', '你好，世界', 'مرحبا', 'x' * 200, '你' * 200,
                                   '😀' * 200, '  sangrado', '* parece un aviso', '<b>&amp;', '"\\n%s{}'])
def test_un_mensaje_llega_entero(charla, texto):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir(texto)
    assert beto.linea() == f'[ana] {texto}'


def test_nadie_habla_por_otro(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir('[beto] soy beto', '[ana] soy ana', 'soy yo')
    assert [beto.linea() for _ in range(3)] == ['[ana] [beto] soy beto', '[ana] soy ana', '[ana] soy yo']


def test_lo_que_no_es_utf8_llega_sustituido(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.enviar(b'ma\xf1ana\n')
    assert beto.linea() == '[ana] ma\ufffdana'


def test_los_caracteres_de_control_no_llegan(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.enviar('\x1b[2Ja\tb\rc\x00\x9b\u2028[otro] falso\u202e\u2066d\x7f\n'.encode())
    assert beto.linea() == '[ana] [2Ja bc[otro] falsod'


def test_lo_vacio_no_llega(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir('', '   ', '\x1b', '[ana] ', '\u200b', 'fin')
    assert beto.linea() == '[ana] fin'


def test_lo_demasiado_largo_no_llega_y_se_dice_cuanto_mide_y_el_limite(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir('antes', 'ñ' * 201, 'fin')
    aviso = ana.linea()
    assert aviso.startswith('* ') and {'201', '200'} <= set(re.findall(r'\d+', aviso))
    assert beto.hasta('[ana] fin') == ['[ana] antes', '[ana] fin']


@pytest.mark.parametrize('trozo', [MAX_LINEA + 1, 10_000], ids=['de golpe', 'a trozos'])
def test_una_linea_sin_final_se_avisa_y_se_cierra(charla, trozo):
    ana, beto = charla.grupo('ana', 'beto')
    datos = b'antes\n' + b'x' * (MAX_LINEA + 1)
    for inicio in range(0, len(datos), trozo):
        ana.enviar(datos[inicio:inicio + trozo])
    assert ana.hasta_el_final() == ['* Una línea no puede pasar de 64 KiB. Adiós.']
    assert beto.hasta('* ana salió.') == ['[ana] antes', '* ana salió.']


def test_todos_ven_el_mismo_orden_con_varios_que_hablan_a_la_vez():
    with servidor(ritmo=0) as charla:
        nicks, cuantos = ('ana', 'beto', 'carla', 'dani'), 300
        *autores, testigo = charla.grupo(*nicks, 'testigo')
        salida = threading.Barrier(len(autores))
        recibido = {}

        def hablar(persona):
            salida.wait(PLAZO)
            for numero in range(cuantos):
                persona.decir(f'{numero}')

        def escuchar(persona, mensajes):
            recibido[persona.nick] = persona.mensajes(mensajes)

        hilos = [threading.Thread(target=hablar, args=(autor,), daemon=True) for autor in autores]
        hilos += [threading.Thread(target=escuchar, args=(autor, 3 * cuantos), daemon=True) for autor in autores]
        hilos.append(threading.Thread(target=escuchar, args=(testigo, 4 * cuantos), daemon=True))
        for hilo in hilos:
            hilo.start()
        for hilo in hilos:
            hilo.join(PLAZO)
        assert set(recibido) == {*nicks, 'testigo'}
        orden = recibido['testigo']
        for nick in nicks:
            assert [linea for linea in orden if linea.startswith(f'[{nick}] ')] == [f'[{nick}] {n}'
                                                                                    for n in range(cuantos)]
            assert recibido[nick] == [linea for linea in orden if not linea.startswith(f'[{nick}] ')]


def test_un_texto_pegado_mas_alla_del_ritmo_no_pierde_nada_y_deja_pasar_a_los_demas():
    with servidor(ritmo=10, rafaga=5) as charla:
        ana, beto, carla = charla.grupo('ana', 'beto', 'carla')
        ana.decir(*[str(numero) for numero in range(40)])
        assert beto.hasta('[ana] 6')[-1] == '[ana] 6'   # la ráfaga ya pasó: ana va frenada
        beto.decir('yo no he pegado nada')
        lineas = carla.hasta('[ana] 39')
        assert [linea for linea in lineas if linea.startswith('[ana]')] == [f'[ana] {n}' for n in range(40)]
        assert '[beto] yo no he pegado nada' in lineas


def test_la_rafaga_pasa_junta_y_despues_se_va_al_ritmo():
    with servidor(ritmo=0.001, rafaga=5, plazo_cierre=10) as charla:
        ana, beto = charla.grupo('ana', 'beto')
        ana.decir(*[str(numero) for numero in range(9)])
        assert beto.hasta('[ana] 4') == [f'[ana] {numero}' for numero in range(5)]
        beto.decir('sigo aquí')
        assert ana.linea() == '[beto] sigo aquí'
        assert charla.sala.mensajes == 6    # el sexto de ana espera unos mil segundos


# ── Entrar ───────────────────────────────────────────────────────────────────────────────────────────────────────

def test_a_quien_calla_se_le_pregunta_el_nick():
    with servidor(espera_pregunta=0.05) as charla:
        persona = charla.conectar()
        assert persona.crudo(6) == b'Nick: '
        assert persona.entrar('ana')[0] == '* Tu nick es ana'


def test_a_quien_habla_primero_no_se_le_pregunta():
    with servidor(espera_pregunta=PLAZO) as charla:
        ana = charla.conectar()
        ana.decir('ana')
        assert ana.linea() == '* Tu nick es ana'


def test_la_bienvenida_dice_quien_esta_y_como_pedir_ayuda(charla):
    charla.grupo('ana', 'beto')
    bienvenida = charla.conectar().entrar('carla')
    assert bienvenida[-1].startswith('* Hola, carla. Están ana, beto.') and '/ayuda' in bienvenida[-1]


@pytest.mark.parametrize('pedido', ['ana', 'ANA', 'Ａｎａ'])
def test_un_nick_ocupado_recibe_un_numero_y_un_aviso(charla, pedido):
    ana, = charla.grupo('ana')
    otra = charla.conectar()
    assert otra.entrar(pedido)[:2] == [f'* Ya hay alguien que se llama {pedido}.', f'* Tu nick es {pedido}_2']
    otra.decir(f'[{pedido}] hola', f'[{pedido}_2] adiós')
    assert ana.hasta(f'[{pedido}_2] adiós') == [f'* {pedido}_2 entró.', f'[{pedido}_2] hola', f'[{pedido}_2] adiós']


def test_un_nick_con_lo_que_no_debe_se_arregla_y_se_avisa(charla):
    bienvenida = charla.conectar().entrar('ana [maría]')
    assert bienvenida[0].startswith('* Un nick tiene ') and bienvenida[1] == '* Tu nick es ana__maría_'


def test_un_nick_con_corchete_sirve_de_prefijo(charla):
    ana, = charla.grupo('ana')
    otra = charla.persona('a]b')
    otra.decir('[a]b] hola')
    assert ana.hasta(lambda linea: linea.startswith('[')) == ['* a_b entró.', '[a_b] hola']


def test_un_nick_vacio_se_vuelve_a_preguntar_y_a_la_tercera_se_cierra():
    with servidor(espera_pregunta=PLAZO) as charla:
        persona = charla.conectar()
        for _ in range(2):
            persona.decir('')
            assert persona.crudo(6) == b'Nick: '
        persona.decir('   ')
        linea, = persona.hasta_el_final()
        assert linea.startswith('* Sin nick no se puede entrar')


def test_tras_un_nick_vacio_se_puede_entrar():
    with servidor(espera_pregunta=PLAZO) as charla:
        persona = charla.conectar()
        persona.decir('')
        assert persona.crudo(6) == b'Nick: '
        assert persona.entrar('ana')[0] == '* Tu nick es ana'


@pytest.mark.parametrize('dicho', [b'', b'an'], ids=['nada', 'medio nick'])
def test_a_quien_no_dice_su_nick_a_tiempo_se_le_avisa_y_se_cierra(dicho):
    with servidor(espera_pregunta=0.01, plazo_nick=0.2) as charla:
        persona = charla.conectar()
        persona.enviar(dicho)
        lineas = persona.hasta_el_final()
        assert lineas[-1].removeprefix('Nick: ').startswith('* Han pasado 0.2 segundos')


def test_quien_ya_dijo_su_nick_puede_callar_mas_que_el_plazo():
    with servidor(espera_pregunta=0.01, plazo_nick=2) as charla:
        ana = charla.persona('ana')
        callada = charla.conectar()
        assert callada.hasta_el_final()[-1].endswith('Adiós.')     # para ana también ha pasado el plazo
        beto = charla.persona('beto')
        ana.decir('sigo aquí')
        assert beto.linea() == '[ana] sigo aquí'


def test_con_la_sala_llena_se_dice_y_se_cierra_hasta_que_hay_sitio():
    with servidor(max_clientes=2) as charla:
        ana, beto = charla.grupo('ana', 'beto')
        sobra = charla.conectar()
        linea, = sobra.hasta_el_final()
        assert linea.startswith('* Sala llena')
        sobra.cerrar()
        ana.decir('/salir')
        assert ana.hasta_el_final() == ['* Hasta luego, ana.']
        ana.cerrar()
        beto.cerrar()
        esperar_a(lambda: not charla.sala.conexiones(), 'que salgan')
        charla.persona('carla')


@pytest.mark.parametrize('salida', ['/salir', '#LOGOUT', '[ana] /salir'])
def test_se_puede_salir_en_vez_de_decir_el_nick(charla, salida):
    persona = charla.conectar()
    persona.decir(salida)
    assert persona.hasta_el_final() == ['* Hasta luego.']


def test_quien_entra_recibe_los_ultimos_mensajes():
    with servidor(historial=3) as charla:
        ana, beto = charla.grupo('ana', 'beto')
        ana.decir('uno', 'dos')
        assert beto.hasta('[ana] dos')
        beto.decir('tres', '/usuarios', 'cuatro')
        assert ana.hasta('[beto] cuatro')
        bienvenida = charla.conectar().entrar('carla')
        assert [linea for linea in bienvenida if linea.startswith('[')] == ['[ana] dos', '[beto] tres', '[beto] cuatro']


# ── Comandos ─────────────────────────────────────────────────────────────────────────────────────────────────────

def test_la_ayuda_dice_todos_los_comandos_solo_a_quien_la_pide(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir('/ayuda', '/AYUDA', 'fin')
    ayuda = [ana.linea() for _ in range(2 * len(protocolo.COMANDOS))]
    assert ayuda[:len(protocolo.COMANDOS)] == ayuda[len(protocolo.COMANDOS):]
    for linea, nombre in zip(ayuda, ('/ayuda', '/usuarios', '/nick', '/privado', '/salir')):
        assert linea.startswith(f'* {nombre}')
    assert beto.linea() == '[ana] fin'


def test_usuarios_dice_quien_esta(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir('/usuarios', 'fin')
    assert ana.linea() == '* Están ana, beto.'
    assert beto.linea() == '[ana] fin'


def test_nick_cambia_el_nick_y_lo_anuncia(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir('/nick anita', 'hola', '[anita] adiós')
    assert ana.linea() == '* Tu nick es anita'
    assert [beto.linea() for _ in range(3)] == ['* ana ahora es anita.', '[anita] hola', '[anita] adiós']


@pytest.mark.parametrize('orden, respuesta', [
    ('/nick', '* Se usa así: /nick NUEVO'), ('/nick   ', '* Se usa así: /nick NUEVO'),
    ('/nick \u200b', '* Ese nick no vale: '), ('/privado', '* Se usa así: /privado NICK TEXTO'),
    ('/privado beto', '* Se usa así: /privado NICK TEXTO'), ('/privado beto   ', '* Se usa así: /privado NICK TEXTO'),
    ('/privado carla hola', '* No hay nadie que se llame carla.'), ('/otra', '* Comando desconocido: /otra.'),
    ('/', '* Comando desconocido: /.'), ('/otra cosa /ayuda', '* Comando desconocido: /otra.'),
    ('/salir ya', '* ')])
def test_una_orden_mal_dada_se_responde_solo_a_quien_la_da(charla, orden, respuesta):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir(orden, 'fin')
    assert ana.linea().startswith(respuesta)
    assert beto.linea() == '[ana] fin'


def test_un_privado_llega_solo_a_su_destino(charla):
    ana, beto, carla = charla.grupo('ana', 'beto', 'carla')
    ana.decir('/privado BETO psst, oye', 'fin')
    assert ana.linea() == '* Enviado a beto en privado.'
    assert beto.hasta('[ana] fin') == ['[ana] (privado) psst, oye', '[ana] fin']
    assert carla.linea() == '[ana] fin'


def test_dos_barras_dicen_una(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.decir('//usuarios')
    assert beto.linea() == '[ana] /usuarios'


# ── Salir ────────────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('salida', ['/salir', '/SALIR', '#LOGOUT', '#logout', '#LogOut', '[ana] #LOGOUT'])
def test_quien_sale_recibe_lo_anterior_y_la_despedida_y_se_anuncia(charla, salida):
    ana, beto = charla.grupo('ana', 'beto')
    beto.decir('antes de que te vayas')
    charla_vista = ana.linea()
    ana.decir('me voy', salida, 'esto ya no')
    assert [charla_vista, *ana.hasta_el_final()] == ['[beto] antes de que te vayas', '* Hasta luego, ana.']
    assert [beto.linea(), beto.linea()] == ['[ana] me voy', '* ana salió.']
    carla = charla.persona('carla')
    carla.decir('fin')
    assert beto.hasta('[carla] fin') == ['* carla entró.', '[carla] fin']


def test_quien_sale_sin_leer_recibe_despues_todo_lo_anterior():
    with servidor(ritmo=0) as charla:
        ana, beto = charla.grupo('ana', 'beto')
        beto.decir(*[str(numero) for numero in range(500)], '/privado ana fin')
        assert beto.linea() == '* Enviado a ana en privado.'
        ana.decir('/salir')
        assert ana.hasta_el_final() == [*[f'[beto] {numero}' for numero in range(500)], '[beto] (privado) fin',
                                        '* Hasta luego, ana.']


def test_quien_sale_con_mucho_a_medio_enviar_recibe_la_despedida_y_no_un_corte():
    with servidor(plazo_cierre=PLAZO) as charla:
        ana, = charla.grupo('ana')
        ana.enviar(b'/salir\n' + b'esto ya no\n' * 30_000)
        assert ana.hasta_el_final() == ['* Hasta luego, ana.']


@pytest.mark.parametrize('despedida', ['* Hasta luego, ana.', None], ids=['lee pero no cierra', 'ni lee ni cierra'])
def test_a_quien_sale_y_no_cierra_se_le_cierra_al_vencer_el_plazo(despedida):
    with servidor(plazo_cierre=0.1) as charla:
        ana, = charla.grupo('ana')
        ana.decir('/salir')
        if despedida:
            assert ana.hasta_el_final() == [despedida]
        esperar_a(lambda: charla.sala.personas and not charla.sala.conexiones(), 'que se le cierre')


def test_quien_termina_de_hablar_entrega_lo_pendiente_y_la_linea_sin_final(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.enviar('uno\ndos\nsin final ñ'.encode())
    ana.terminar_de_hablar()
    assert beto.hasta('* ana salió.') == ['[ana] uno', '[ana] dos', '[ana] sin final ñ', '* ana salió.']
    assert ana.hasta_el_final() == []


def test_un_guion_que_lo_dice_todo_y_termina_es_un_ciudadano_mas(charla):
    ana, = charla.grupo('ana')
    guion = charla.conectar()
    guion.enviar(b'guion\nhola\nadios')
    guion.terminar_de_hablar()
    assert ana.hasta('* guion salió.') == ['* guion entró.', '[guion] hola', '[guion] adios', '* guion salió.']
    assert guion.hasta_el_final()[0] == '* Tu nick es guion'


def test_quien_solo_dice_su_nick_sin_final_tambien_entra(charla):
    ana, = charla.grupo('ana')
    guion = charla.conectar()
    guion.enviar(b'guion')
    guion.terminar_de_hablar()
    assert ana.hasta('* guion salió.') == ['* guion entró.', '* guion salió.']


def test_un_corte_es_una_salida_como_otra(charla):
    ana, beto = charla.grupo('ana', 'beto')
    ana.romper()
    assert beto.linea() == '* ana salió.'
    charla.persona('ana').decir('he vuelto')
    assert beto.hasta('[ana] he vuelto') == ['* ana entró.', '[ana] he vuelto']


def test_quien_se_va_sin_nick_no_se_anuncia(charla):
    ana, = charla.grupo('ana')
    for irse in (Persona.romper, Persona.cerrar, Persona.terminar_de_hablar):
        persona = charla.conectar()
        esperar_a(lambda: len(charla.sala.conexiones()) == 2, 'que entre')
        irse(persona)
        esperar_a(lambda: len(charla.sala.conexiones()) == 1, 'que salga')
    beto = charla.persona('beto')
    beto.decir('fin')
    assert ana.hasta('[beto] fin') == ['* beto entró.', '[beto] fin']


def test_de_cien_conexiones_con_la_mitad_rotas_queda_justo_la_otra_mitad():
    with servidor() as charla:
        hilos, sockets = threading.active_count(), sockets_abiertos()
        personas = [charla.conectar() for _ in range(100)]
        for numero, persona in enumerate(personas):
            persona.decir(f'p{numero}')
        esperar_a(lambda: len(charla.sala._presentes) == 100, 'que entren todos')
        assert threading.active_count() == hilos + 100
        for persona in personas[::2]:
            persona.romper()
        esperar_a(lambda: len(charla.sala.conexiones()) == 50, 'que salgan los rotos')
        esperar_a(lambda: threading.active_count() == hilos + 50, 'que acaben sus hilos')
        assert sockets is None or sockets_abiertos() == sockets + 2 * 50
        quedan = personas[1::2]
        quedan[0].decir('seguimos')
        for persona in quedan[1:]:
            persona.hasta('[p1] seguimos')
        for persona in quedan:
            persona.decir('/salir')
            assert persona.hasta_el_final()[-1].startswith('* Hasta luego, p')
        esperar_a(lambda: threading.active_count() == hilos, 'que acaben todos los hilos')


def test_la_consola_dice_quien_entra_y_quien_sale(charla):
    ana = charla.persona('ana')
    ana.decir('/salir')
    ana.hasta_el_final()
    esperar_a(lambda: len(charla.apuntes) == 2, 'que se anote')
    entra, sale = charla.apuntes
    assert re.fullmatch(r'\+ ana \(127\.0\.0\.1:\d+\) entra; hay 1', entra)
    assert re.fullmatch(r'- ana \(127\.0\.0\.1:\d+\) sale; quedan 0', sale)


# ── Rezagados ────────────────────────────────────────────────────────────────────────────────────────────────────

class Atasco:
    """Alguien que no lee, y otros que hablan hasta que se queda atrás. Con memoria pequeña y sockets pequeños."""

    AJUSTES = dict(ritmo=0, max_memoria=60_000, max_pendiente=10_000, historial=0)
    TOPE = 60_000 + 10_000 + 60_000     # la memoria, la lista, y una última lectura de cada uno de los que hablan

    def __init__(self, charla):
        self.charla = charla
        charla.servidor._escucha.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.lento = charla.persona('lento', buzon=4096)
        self.hablador = charla.persona('hablador')
        self.oyente = charla.persona('oyente')
        assert [self.lento.linea(), self.lento.linea()] == ['* hablador entró.', '* oyente entró.']
        self.hablador.linea()
        self.estado = charla.cliente('lento')
        self.dichos = 0

    def hablar(self, cuantos=50):
        """El hablador dice `cuantos` mensajes numerados y el oyente los recibe todos."""
        primero, self.dichos = self.dichos, self.dichos + cuantos
        self.hablador.decir(*[f'{numero} {"x" * 150}' for numero in range(primero, self.dichos)])
        recibidos = [int(linea.split()[1]) for linea in self.oyente.mensajes(cuantos)]
        assert recibidos == list(range(primero, self.dichos))
        assert self.charla.repartidor._memoria <= self.TOPE

    def atascar(self):
        """Habla hasta que al lento ya no se le pueda dar todo."""
        self.hablar()
        while not self.atascado():
            self.hablar()

    def atascado(self):
        cursor, tandas = self.estado.cursor, self.charla.repartidor._tandas
        return cursor is not None and cursor < tandas[0].numero

    @staticmethod
    def perdidos(linea):
        aviso = re.fullmatch(r'\* Te perdiste (\d+) mensajes\.', linea)
        return int(aviso[1]) if aviso else None

    def comprobar(self, lineas):
        """Que cada mensaje del hablador esté en `lineas`, en su orden, o contado en un aviso. Cuántos avisos hubo."""
        siguiente, avisos = 0, 0
        for linea in lineas:
            perdidos = self.perdidos(linea)
            if perdidos is not None:
                siguiente += perdidos
                avisos += 1
            else:
                assert linea == f'[hablador] {siguiente} {"x" * 150}'
                siguiente += 1
        assert siguiente == self.dichos
        return avisos


def test_quien_no_lee_no_para_a_los_demas_y_sabe_cuantos_mensajes_se_perdio():
    with servidor(**Atasco.AJUSTES) as charla:
        atasco = Atasco(charla)
        atasco.atascar()
        atasco.hablador.decir('/privado lento fin')
        assert atasco.hablador.linea() == '* Enviado a lento en privado.'
        lineas = atasco.lento.hasta('[hablador] (privado) fin')
        assert atasco.comprobar(lineas[:-1]) == 1


def test_quien_se_atasca_varias_veces_sabe_de_cada_una():
    with servidor(**Atasco.AJUSTES) as charla:
        atasco = Atasco(charla)
        lineas = []
        for _ in range(3):
            atasco.atascar()
            lineas += atasco.lento.hasta(lambda linea: atasco.perdidos(linea) is not None)
        atasco.hablador.decir('/privado lento fin')
        assert atasco.hablador.linea() == '* Enviado a lento en privado.'
        lineas += atasco.lento.hasta('[hablador] (privado) fin')
        assert atasco.comprobar(lineas[:-1]) >= 3


def test_lo_que_dice_el_rezagado_no_cuenta_como_perdido():
    with servidor(**Atasco.AJUSTES) as charla:
        atasco = Atasco(charla)
        propios = 0

        def hablar_los_dos():
            nonlocal propios
            atasco.hablar(20)
            atasco.lento.decir('yo también', 'y otra vez')
            assert atasco.oyente.mensajes(2) == ['[lento] yo también', '[lento] y otra vez']
            propios += 2

        hablar_los_dos()
        while not atasco.atascado():
            hablar_los_dos()
        for _ in range(20):
            hablar_los_dos()
        atasco.hablador.decir('/privado lento fin')
        atasco.hablador.hasta('* Enviado a lento en privado.')
        lineas = atasco.lento.hasta('[hablador] (privado) fin')
        assert atasco.comprobar(lineas[:-1]) == 1 and propios > 40


def test_quien_se_va_rezagado_sabe_lo_que_se_perdio_hasta_irse():
    with servidor(plazo_cierre=PLAZO, **Atasco.AJUSTES) as charla:
        atasco = Atasco(charla)
        atasco.atascar()
        atasco.lento.decir('/salir')
        atasco.oyente.hasta('* lento salió.')
        suyos = atasco.dichos
        for _ in range(20):
            atasco.hablar()
        lineas = atasco.lento.hasta_el_final()
        atasco.dichos = suyos
        assert atasco.comprobar(lineas) and atasco.perdidos(lineas[-1])


def test_quien_lee_despacio_sin_pasar_de_la_memoria_lo_recibe_todo():
    with servidor(**{**Atasco.AJUSTES, 'max_memoria': 50_000_000}) as charla:
        atasco = Atasco(charla)
        atasco.TOPE = 50_000_000
        while atasco.estado.cursor is None:
            atasco.hablar()
        atasco.hablar(500)
        atasco.hablador.decir('/privado lento fin')
        assert atasco.comprobar(atasco.lento.hasta('[hablador] (privado) fin')[:-1]) == 0
        esperar_a(lambda: atasco.estado.cursor is None, 'que se ponga al día')
        atasco.hablar(1)
        assert atasco.lento.linea() == f'[hablador] {atasco.dichos - 1} {"x" * 150}'


def test_un_rezagado_que_se_corta_se_anuncia():
    with servidor(**Atasco.AJUSTES) as charla:
        atasco = Atasco(charla)
        atasco.atascar()
        atasco.lento.romper()
        assert atasco.oyente.linea() == '* lento salió.'
        esperar_a(lambda: len(charla.sala.conexiones()) == 2, 'que se cierre su conexión')


def test_un_rezagado_que_se_va_recibe_lo_que_queda_y_su_despedida():
    with servidor(**{**Atasco.AJUSTES, 'plazo_cierre': PLAZO}) as charla:
        atasco = Atasco(charla)
        atasco.atascar()
        atasco.lento.decir('/salir')
        assert atasco.oyente.linea() == '* lento salió.'
        lineas = atasco.lento.hasta_el_final()
        assert lineas[-1] == '* Hasta luego, lento.'
        assert atasco.comprobar(lineas[:-1]) == 1


# ── Cerrar ───────────────────────────────────────────────────────────────────────────────────────────────────────

CIERRE = '* El servidor se cierra. Hasta luego.'


def test_al_cerrar_todos_reciben_lo_anterior_y_el_aviso():
    with servidor(espera_pregunta=0.05) as charla:
        ana, beto = charla.grupo('ana', 'beto')
        callada = charla.conectar()
        assert callada.crudo(6) == b'Nick: '
        ana.decir('antes')
        assert beto.linea() == '[ana] antes'
        charla.parar()
        assert CIERRE in ana.hasta_el_final() and CIERRE in beto.hasta_el_final()
        assert callada.hasta_el_final() == []


def test_al_cerrar_no_queda_nada_aunque_haya_quien_calla_quien_no_lee_y_quien_no_termina():
    with servidor(**{**Atasco.AJUSTES, 'plazo_cierre': 2}) as charla:
        atasco = Atasco(charla)
        atasco.atascar()
        for datos in (b'', b'medio ni', b'dentro\n', b'dentro\nmedia lin', b'\xf0\x9f'):
            charla.conectar().enviar(datos)
        cerrada = charla.conectar()
        cerrada.enviar(b'mutis')
        cerrada.terminar_de_hablar()
        # seis, o más: lo que no acaba en línea vale como nick al cabo de un rato
        esperar_a(lambda: charla.sala.personas >= 6, 'que lleguen')
        charla.parar()
        assert CIERRE in atasco.oyente.hasta_el_final()


def test_al_cerrar_no_se_espera_a_quien_va_frenado():
    with servidor(ritmo=0.001, rafaga=1, plazo_cierre=PLAZO) as charla:
        ana, beto = charla.grupo('ana', 'beto')
        ana.decir('uno', 'dos', 'tres')
        assert beto.linea() == '[ana] uno'
        charla.parar()
        assert beto.hasta(CIERRE)[-1] == CIERRE


@contextlib.contextmanager
def hablando_sin_parar(persona):
    """Mientras dura, `persona` habla tan deprisa como puede, y no lee."""
    parar = threading.Event()

    def hablar():
        while not parar.is_set():
            try:
                persona.decir(*['x' * 100] * 50)
            except OSError:
                return

    hilo = threading.Thread(target=hablar, daemon=True)
    hilo.start()
    try:
        yield
    finally:
        parar.set()
        apagar(persona.socket)    # lo saca de un envío que ya nadie va a leer
        hilo.join(PLAZO)


def test_al_cerrar_con_quien_no_para_de_hablar_se_termina_sin_errores():
    with servidor(ritmo=0, plazo_cierre=5) as charla:
        ana, beto = charla.grupo('ana', 'beto')
        with hablando_sin_parar(ana):
            beto.mensajes(1000)
            charla.parar()
            assert CIERRE in beto.hasta_el_final()


def test_cerrar_sin_nadie_termina():
    with servidor():
        pass


def test_pedir_el_cierre_de_lo_ya_cerrado_no_es_un_error(charla):
    charla.parar()
    charla.hilo.join(PLAZO)
    charla.servidor.parar()


# ── Donde no hay MSG_DONTWAIT ────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def como_windows(monkeypatch):
    monkeypatch.setattr(reparto, 'SIN_ESPERA', 0)
    monkeypatch.setattr(server, 'SIN_ESPERA', 0)
    monkeypatch.setattr(conversacion, 'SIN_ESPERA', 0)


@SOLO_POSIX
def test_se_entra_aunque_accept_herede_el_no_bloquear_como_en_macos(monkeypatch):
    aceptar = socket.socket.accept

    def como_en_macos(escucha):
        conexion, direccion = aceptar(escucha)
        os.set_blocking(conexion.fileno(), False)
        return conexion, direccion

    monkeypatch.setattr(socket.socket, 'accept', como_en_macos)
    with servidor() as charla:
        ana, beto = charla.grupo('ana', 'beto')
        ana.decir('¿seguimos?')
        assert beto.linea() == '[ana] ¿seguimos?'


def test_sin_msg_dontwait_se_conversa_igual(como_windows):
    with servidor(espera_pregunta=0.01) as charla:
        callada = charla.conectar()
        assert callada.crudo(6) == b'Nick: '
        ana, beto = charla.grupo('ana', 'beto')
        assert not charla.cliente('ana').conexion.socket.getblocking()
        ana.decir('hola')
        assert beto.linea() == '[ana] hola'
        beto.decir('adiós', '/salir')
        assert [ana.linea(), ana.linea()] == ['[beto] adiós', '* beto salió.']
        assert beto.hasta_el_final() == ['* Hasta luego, beto.']
        charla.parar()
        assert ana.hasta(CIERRE)


def test_sin_msg_dontwait_quien_no_lee_no_para_a_los_demas(como_windows):
    with servidor(**Atasco.AJUSTES) as charla:
        atasco = Atasco(charla)
        atasco.atascar()
        atasco.hablador.decir('/privado lento fin')
        assert atasco.comprobar(atasco.lento.hasta('[hablador] (privado) fin')[:-1]) == 1


# ── El programa ──────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def proceso():
    """Lanza `server.py` y, al acabar la prueba, se asegura de que termine."""
    abiertos = []

    def lanzar(*argumentos, **opciones):
        abiertos.append(Proceso(*argumentos, **opciones))
        return abiertos[-1]

    yield lanzar
    for abierto in abiertos:
        abierto.__exit__()


@pytest.fixture
def entrar():
    """Hace entrar a una persona en una dirección, y la desconecta al acabar."""
    personas = []

    def conectar(direccion, nick=None):
        personas.append(Persona(direccion))
        if nick:
            personas[-1].entrar(nick)
        return personas[-1]

    yield conectar
    for persona in personas:
        persona.cerrar()


def test_dice_donde_escucha_aunque_su_salida_sea_una_tuberia(proceso, entrar):
    host, puerto = proceso('--puerto', '0').direccion()
    assert host == '127.0.0.1' and puerto > 0
    entrar((host, puerto), 'ana')


def test_la_salida_dice_quien_entra_y_sale_y_no_lo_que_se_dice(proceso, entrar):
    programa = proceso('--puerto', '0')
    direccion = programa.direccion()
    ana = entrar(direccion, 'ana')
    programa.hasta(lambda linea: linea.startswith('+ ana (') and linea.endswith('hay 1'))
    entrar(direccion, 'beto')
    programa.hasta(lambda linea: linea.startswith('+ beto (') and linea.endswith('hay 2'))
    ana.decir('secreto', '/salir')
    programa.hasta(lambda linea: linea.startswith('- ana (') and linea.endswith('quedan 1'))
    assert not any('secreto' in linea for linea in programa.lineas)
    assert not any(linea.startswith('Aviso:') for linea in programa.lineas)


def test_con_mostrar_se_ve_lo_que_se_dice(proceso, entrar):
    programa = proceso('--puerto', '0', '--mostrar')
    entrar(programa.direccion(), 'ana').decir('hola ñ', '/ayuda', 'adiós 😀')
    assert programa.hasta(lambda linea: linea.startswith('[')) == '[ana] hola ñ'
    assert programa.hasta(lambda linea: linea.startswith('[')) == '[ana] adiós 😀'


def test_abrirse_a_la_red_se_avisa(proceso):
    programa = proceso('--puerto', '0', '--host', '0.0.0.0')
    programa.direccion()
    assert 'red' in programa.hasta(lambda linea: linea.startswith('Aviso:'))


def fallo_de_una_linea(programa):
    codigo, salida, errores = programa.final()
    assert codigo == 1 and salida == []
    linea, = errores
    assert linea.startswith('Error: ')
    return linea


def test_un_puerto_ocupado_se_explica(proceso):
    with socket.create_server(('127.0.0.1', 0)) as ocupado:
        puerto = ocupado.getsockname()[1]
        linea = fallo_de_una_linea(proceso('--puerto', str(puerto)))
    assert str(puerto) in linea and 'ocupado' in linea


def test_una_direccion_ajena_se_explica(proceso):
    assert '203.0.113.1' in fallo_de_una_linea(proceso('--puerto', '0', '--host', '203.0.113.1'))


@pytest.mark.parametrize('host', ['no hay', 'a..b', 'x' * 70])
def test_un_nombre_que_no_es_de_ninguna_maquina_se_explica(proceso, host):
    assert host in fallo_de_una_linea(proceso('--puerto', '0', '--host', host))


@pytest.mark.parametrize('argumentos', [('--puerto', 'x'), ('--puerto', '65536'), ('--nada',), ('--puerto',)])
def test_unas_opciones_malas_se_explican_en_espanol(proceso, argumentos):
    codigo, salida, errores = proceso(*argumentos).final()
    assert codigo == 2 and salida == []
    assert errores[0].startswith('Error: ') and '--ayuda' in errores[-1]
    assert not re.search(r'usage|argument|invalid|expected|error:|Traceback', '\n'.join(errores))


def test_la_ayuda_termina_bien(proceso):
    codigo, salida, errores = proceso('--ayuda').final()
    assert codigo == 0 and errores == [] and salida[0] == 'Uso: python server.py [opciones]'


def ignorar_sigint():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@SOLO_POSIX
@pytest.mark.parametrize('senal, opciones', [
    ('SIGINT', {}), ('SIGINT', {'preexec_fn': ignorar_sigint}), ('SIGTERM', {}), ('SIGHUP', {})],
    ids=['SIGINT', 'SIGINT ignorada al nacer', 'SIGTERM', 'SIGHUP'])
def test_una_senal_cierra_con_aviso_y_con_los_totales(proceso, entrar, senal, opciones):
    programa = proceso('--puerto', '0', **opciones)
    direccion = programa.direccion()
    ana, beto, callada = entrar(direccion, 'ana'), entrar(direccion, 'beto'), entrar(direccion)
    assert callada.crudo(6) == b'Nick: '
    beto.decir('uno', 'dos')
    assert ana.hasta('[beto] dos')
    programa.senal(getattr(signal, senal))
    assert CIERRE in ana.hasta_el_final() and CIERRE in beto.hasta_el_final()
    codigo, salida, errores = programa.final()
    assert (codigo, errores) == (0, [])
    assert re.fullmatch(r'Fin: personas 2, mensajes 2, entregas \d+\.', salida[-1])
    assert sum(linea.startswith('- ') for linea in salida) == 2


@SOLO_POSIX
def test_una_senal_con_quien_no_para_de_hablar_cierra_sin_errores(proceso, entrar):
    programa = proceso('--puerto', '0', '--ritmo', '0')
    direccion = programa.direccion()
    ana, beto = entrar(direccion, 'ana'), entrar(direccion, 'beto')
    with hablando_sin_parar(ana):
        beto.mensajes(1000)
        programa.senal(signal.SIGTERM)
        assert CIERRE in beto.hasta_el_final()
        codigo, salida, errores = programa.final()
    assert (codigo, errores) == (0, []) and salida[-1].startswith('Fin: ')


@SOLO_POSIX
def test_si_se_cierra_su_consola_la_charla_sigue_y_termina_bien(entrar):
    programa = subprocess.Popen([sys.executable, str(RAIZ / 'server.py'), '--puerto', '0'], encoding='utf-8',
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        direccion = '127.0.0.1', int(programa.stdout.readline().split()[2].rpartition(':')[2])
        programa.stdout.close()
        ana, beto = entrar(direccion, 'ana'), entrar(direccion, 'beto')
        ana.decir('¿hay alguien?')
        assert beto.linea() == '[ana] ¿hay alguien?'
        programa.send_signal(signal.SIGTERM)
        assert CIERRE in beto.hasta_el_final()
        assert programa.wait(PLAZO) == 0
        assert programa.stderr.read() == ''
    finally:
        programa.kill()
        programa.wait(PLAZO)
        programa.stderr.close()


@SOLO_POSIX
def test_si_nadie_lee_su_consola_la_charla_sigue_entra_gente_y_se_puede_parar(entrar):
    programa = subprocess.Popen([sys.executable, str(RAIZ / 'server.py'), '--puerto', '0', '--mostrar', '--ritmo', '0'],
                                encoding='utf-8', stdout=subprocess.PIPE)
    try:
        direccion = '127.0.0.1', int(programa.stdout.readline().split()[2].rpartition(':')[2])
        ana, beto = entrar(direccion, 'ana'), entrar(direccion, 'beto')
        textos = [f'{numero} {"x" * 190}' for numero in range(2000)]    # seis veces lo que cabe en la tubería
        hilo = threading.Thread(target=ana.decir, args=textos, daemon=True)
        hilo.start()
        assert beto.mensajes(2000) == [f'[ana] {texto}' for texto in textos]
        hilo.join(PLAZO)
        entrar(direccion, 'carla').terminar_de_hablar()
        beto.hasta('* carla entró.')
        programa.send_signal(signal.SIGTERM)
        assert CIERRE in beto.hasta_el_final()
        assert programa.wait(PLAZO) == 0
    finally:
        programa.kill()
        programa.wait(PLAZO)
        programa.stdout.close()


@SOLO_POSIX
def test_la_consola_no_pierde_la_cuenta_de_lo_que_no_pudo_mostrar():
    lectura, escritura = os.pipe()
    with open(lectura, 'rb', buffering=0) as lector, open(escritura, 'wb', buffering=0) as salida:
        consola = server.Consola(salida, max_apuntes=100)
        for numero in range(100):
            consola.anotar(f'{numero} {"ñ" * 1000}')
        assert consola.escribir()       # la tubería se ha llenado
        for numero in range(100, 300):
            consola.anotar(f'{numero}')
        recibido = b''
        while consola.escribir() or not recibido.endswith(b'mostrar)\n'):
            recibido += lector.read(1 << 20)
    lineas = recibido.decode().splitlines()
    assert [linea.split()[0] for linea in lineas[:-1]] == [str(numero) for numero in range(len(lineas) - 1)]
    assert lineas[-1] == f'(y {300 - (len(lineas) - 1)} líneas más, que no ha habido manera de mostrar)'


@SOLO_POSIX
def test_una_terminal_que_nadie_lee_no_impide_entrar(entrar):
    maestro, esclavo = os.openpty()
    programa = subprocess.Popen([sys.executable, str(RAIZ / 'server.py'), '--puerto', '0', '--mostrar', '--ritmo', '0'],
                                stdout=esclavo, stdin=subprocess.DEVNULL)
    try:
        anuncio = b''
        while not anuncio.endswith(b'\n'):
            anuncio += os.read(maestro, 1)
        direccion = '127.0.0.1', int(anuncio.split()[2].rpartition(b':')[2])
        ana, beto = entrar(direccion, 'ana'), entrar(direccion, 'beto')
        ana.decir(*['x' * 190] * 2000)      # muchas veces lo que cabe en la terminal
        beto.mensajes(2000)
        entrar(direccion, 'carla')
        beto.hasta('* carla entró.')
    finally:
        programa.kill()
        programa.wait(PLAZO)
        os.close(maestro)
        os.close(esclavo)


def pocos_descriptores():
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))


@SOLO_POSIX
def test_sin_descriptores_lo_dice_sigue_y_se_recupera(proceso, entrar):
    programa = proceso('--puerto', '0', preexec_fn=pocos_descriptores)
    direccion = programa.direccion()
    ana, beto = entrar(direccion, 'ana'), entrar(direccion, 'beto')
    sobran = [entrar(direccion) for _ in range(50)]
    programa.hasta(lambda linea: linea.startswith('No puedo aceptar más conexiones'))
    ana.decir('¿sigues ahí?')
    assert beto.hasta('[ana] ¿sigues ahí?')
    for persona in sobran:
        persona.cerrar()
    entrar(direccion, 'carla')
    assert beto.hasta('* carla entró.')
    programa.senal(signal.SIGTERM)
    codigo, salida, errores = programa.final()
    assert (codigo, errores) == (0, []) and salida[-1].startswith('Fin: ')
