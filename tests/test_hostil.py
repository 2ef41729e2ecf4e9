"""Lo que hacen los programas rotos y las personas con malas intenciones, mientras tres personas corrientes charlan.

Cada prueba es un asedio (`asedio.py`) a un servidor de verdad: lo que se ve aquí es lo hostil y lo que se espera de
ello; que la charla siga, que no quede nada y que la consola no mienta se comprueba siempre.
"""

import contextlib
import ctypes
import itertools
import os
import random
import re
import resource
import threading
import time
import unicodedata

import pytest

from config import MAX_LINEA, AjustesServidor
from tests.asedio import MIB, Hostil, Sesion, asedio, sin_parar
from tests.utiles import Persona, Proceso, esperar_a, servidor

pytestmark = pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='hilos y descriptores se leen en /proc')

SEMILLA = 20_240_229
SIN_RITMO = ('--ritmo', '0')
SIN_TOPE_POR_IP = ('--max-por-ip', '0')
MUCHOS = ('--max-clientes', '3000', *SIN_TOPE_POR_IP)


# ── Bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────

def test_bytes_al_azar_no_rompen_nada():
    azar = random.Random(SEMILLA)
    with asedio(*SIN_RITMO, '--mostrar') as caso:
        crudos = [caso.conectar() for _ in range(5)]
        for crudo in crudos:
            crudo.enviar(b'[crudo] hola')   # ni fin de línea ni longitud: en un segundo se le da por crudo
        for numero in range(60):
            hostil = caso.conectar()
            hostil.enviar(b'5         azar!' * (numero % 3 == 0))      # así empieza quien antepone la longitud
            hostil.enviar_lo_que_deje(azar.randbytes(azar.randrange(1, 20_000)))
            if azar.random() < 0.5:
                hostil.terminar_de_hablar()
        for numero in range(5):     # líneas cortas: así son mensajes, y llegan a los demás
            hostil = caso.persona(f'ruido{numero}')
            hostil.enviar(b'\n'.join(azar.randbytes(azar.randrange(1, 60)) for _ in range(1000)) + b'\nfin\n')
            caso.tertulia.oyen(f'[ruido{numero}] fin')
        caso.tertulia.oyen('[crudo] hola')
        for crudo in crudos:
            crudo.enviar_lo_que_deje(azar.randbytes(20_000))


def test_cualquier_byte_en_cualquier_sitio_llega_limpio():
    with asedio(*SIN_RITMO) as caso:
        hostil = caso.persona('bytes')
        hostil.enviar(b''.join(b'x%cy\n' % byte for byte in range(256)) + b'fin\n')
        caso.tertulia.oyen('[bytes] fin')
        raros = [linea for linea in caso.tertulia.ajenas('[bytes] ')
                 if not re.fullmatch(r'\[bytes\] (x[ -~]y|xy|x|y|fin)', linea)]
        assert raros == ['[bytes] x\ufffdy'] * 128
        assert '[bytes] xy' in caso.tertulia.ajenas('[bytes] ')      # lo que dijo con un NUL en medio


def test_muchos_nul_y_medio_caracter_al_final_no_estorban():
    with asedio() as caso:
        nulo, medio = caso.persona('nulo'), caso.persona('medio')
        nulo.enviar(b'\0' * 50_000 + b'\n' + b'\0' * 50_000 + b'aqu\xc3\xad\n')
        medio.enviar(b'hasta ma\xc3\xb1ana\xc3')
        medio.terminar_de_hablar()
        caso.tertulia.oyen('[nulo] aquí', '[medio] hasta mañana\ufffd', '* medio salió.')
        assert caso.tertulia.ajenas('[nulo] ') == ['[nulo] aquí']


def test_las_lineas_enormes_se_rechazan_y_cuestan_solo_a_quien_las_envia():
    with asedio(*SIN_RITMO) as caso:
        larga = caso.persona('larga')
        larga.enviar(b'x' * (MAX_LINEA - 1) + b'\n' + '😀'.encode() * (MAX_LINEA // 4) + b'\nfin\n')
        caso.tertulia.oyen('[larga] fin')
        larga.decir('/usuarios')
        dicho = larga.hasta(lambda linea: linea.startswith('* Están '))
        assert len([linea for linea in dicho if 'el límite es 200' in linea]) == 2
        sin_final = caso.persona('sinfinal')
        sin_final.enviar_lo_que_deje(b'x' * (MAX_LINEA + 1))
        assert sin_final.lo_que_diga().decode().endswith('* Una línea no puede pasar de 64 KiB. Adiós.\n')
        for quien in ('', 'gigante\n'):     # sin nick, y ya dentro
            caso.conectar().enviar_lo_que_deje(quien.encode() + b'x' * 10_000_000)
        caso.tertulia.oyen('* gigante salió.')
        caso.comprobar_memoria(4 * MIB)
        assert caso.tertulia.ajenas('[') == ['[larga] fin']


# ── Engaños ──────────────────────────────────────────────────────────────────────────────────────────────────────

TRUCOS = ['\x1b[2J\x1b[H', '\x1b]0;título\x07', '\x9b31m', '\x1bP+q\x1b\\', '\r', '\b' * 20, '\x0b', '\x0c', '\x85',
          '\u2028', '\u2029', '\u202e', '\u202d', '\u2066', '\u2067', '\u2069', '\x7f', '\0', '\ufeff']


def test_ni_escapes_ni_ordenes_de_direccion_llegan_a_nadie():
    with asedio(*SIN_RITMO, '--mostrar') as caso:
        for numero, truco in enumerate(TRUCOS):
            hostil = caso.conectar()
            hostil.decir(f'truco{truco}[ana] 1', f'{truco}[ana] {truco}99', f'a{truco}b', f'{truco}', f'fin {numero}')
            caso.tertulia.oyen_acabar(f'] fin {numero}')
        dicho = caso.tertulia.ajenas('[')
        assert len([linea for linea in dicho if linea.endswith('99')]) == len(TRUCOS)
        assert all(linea.startswith('[truco') for linea in dicho)


def test_dos_nicks_que_se_parecen_no_son_el_mismo():
    parecidos = ['ana', 'Ana', 'ANA', 'Ａｎａ', 'ａｎａ', ' ana ', '\u200bana\u200b', 'a\u00adna', 'ana\0', '\x1bana',
                 'an\u200da', 'ᵃna', 'ána', 'a\u0301na', 'Ána', 'straße', 'STRASSE', 'ﬁn', 'fin', '[ana] ', 'x' * 20,
                 'x' * 21, 'X' * 30]
    with asedio(*SIN_RITMO) as caso:
        nicks = ['ana', 'luis', 'marta']
        for parecido in parecidos:
            nicks.append(caso.persona(parecido).nick)
        camaleon = caso.persona('camaleon')
        for parecido in parecidos[:8]:
            camaleon.decir(f'/nick {parecido}')
            nicks.append(camaleon.hasta(lambda linea: linea.startswith('* Tu nick es '))[-1].split()[-1])
            assert nicks.pop() not in nicks
        claves = [unicodedata.normalize('NFKC', unicodedata.normalize('NFKC', nick).casefold()) for nick in nicks]
        assert len(set(claves)) == len(nicks)
        assert all(nick.isprintable() and not re.search(r'[\s\[\]\u200b-\u200f\u00ad]', nick) for nick in nicks)


def test_nadie_habla_por_otro_ni_por_el_servidor():
    falsos = ['[ana] 1000', '[ana]', '* ana salió.', '* El servidor se cierra. Hasta luego.', '#VIVO 1', '[ana_2] hola',
              '7 [ana] 1000', '[falso] [ana] 1000', '[servidor] hola', '[luis] (privado) oye', '\r[ana] 1000']
    with asedio(*SIN_RITMO) as caso:
        malo = caso.conectar()
        malo.decir('[malo] [ana] 1000', *falsos, '[malo] [ana] 1000', '/privado luis [ana] 1000', 'fin')
        usurpa = caso.conectar()
        usurpa.decir('[ana] soy ana', '[ana] 1000', 'fin')      # pide un nick que no es libre
        caso.tertulia.oyen('[malo] fin', '[ana_2] fin')
        for persona in caso.tertulia.personas:
            esperado = ['[ana] 1000', *falsos[:-1], '[ana] 1000', '[ana] 1000', 'fin']
            if persona.nick == 'luis':
                esperado.insert(-1, '(privado) [ana] 1000')
            assert [linea for linea in persona.ajenas if linea.startswith('[malo')] == [f'[malo] {t}' for t in esperado]
            assert [linea for linea in persona.ajenas if linea.startswith('[ana_2')] == [
                '[ana_2] soy ana', '[ana_2] 1000', '[ana_2] fin']


def test_nadie_escribe_una_linea_en_la_consola():
    falsa = '+ falso (127.0.0.1:1) entra; hay 99'
    with asedio(*SIN_RITMO, '--mostrar') as caso:
        separadores = '\n', '\r', '\r\n', '\x0b', '\x0c', '\x85', '\u2028', '\u2029', '\x1b[1A', '\x1bE', '\b'
        for separador in separadores:
            hostil = caso.conectar()
            hostil.enviar(f'malo{separador}{falsa}\n'.encode())
            hostil.decir(f'/nick peor{separador}{falsa}', f'a{separador}{falsa}', falsa, 'fin')
            hostil.hasta(lambda linea: linea.startswith('* Tu nick es peor'))
        caso.retirar()
        caso.esperar_a_estar_como(caso.base)
        for _ in separadores:
            caso.programa.hasta(lambda linea: linea.startswith('- peor'))
        consola = [linea for linea in caso.programa.lineas if 'falso' in linea and not linea.startswith('[')]
        assert consola and all(re.match(r'[+=-] (malo|peor)', linea) for linea in consola)


# ── Conexiones ───────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def muchos_descriptores():
    """Función que hace sitio en este proceso para tantas conexiones."""
    blando, duro = resource.getrlimit(resource.RLIMIT_NOFILE)

    def hacer_sitio(cuantas):
        if duro != resource.RLIM_INFINITY and duro < cuantas + 200:
            pytest.skip(f'el sistema solo deja abrir {duro} descriptores')
        if blando != resource.RLIM_INFINITY and blando < cuantas + 200:
            resource.setrlimit(resource.RLIMIT_NOFILE, (cuantas + 200, duro))

    yield hacer_sitio
    resource.setrlimit(resource.RLIMIT_NOFILE, (blando, duro))


def test_dos_mil_conexiones_calladas_no_estorban_a_nadie(muchos_descriptores):
    muchos_descriptores(2000)
    with asedio(*MUCHOS) as caso:
        calladas = [caso.conectar() for _ in range(2000)]
        for callada in calladas:
            assert callada.crudo(6) == b'Nick: '
        caso.esperar_a_estar_como(caso.base, hilos=2000, descriptores=2000)
        caso.tertulia.rondas(5)
        caso.persona('nueva')
        caso.tertulia.oyen('* nueva entró.')
        for quedan in range(1900, -1, -100):        # no de golpe: eso es otra prueba
            for callada in calladas[quedan:quedan + 100]:
                callada.cerrar()
            caso.esperar_a_estar_como(caso.base, hilos=quedan + 1, descriptores=quedan + 1)


def test_quinientos_que_escriben_un_byte_por_segundo_son_personas_como_las_demas(muchos_descriptores):
    muchos_descriptores(500)
    with asedio(*MUCHOS) as caso:
        lentos = [caso.conectar() for _ in range(500)]
        for numero, lento in enumerate(lentos):
            lento.decir(f'{numero:03}')
        for byte in b'ya\n':
            for lento in lentos:
                lento.enviar(bytes([byte]))
            caso.tertulia.segundos(1)
        caso.tertulia.oyen(*[f'[{numero:03}] ya' for numero in range(500)])
        caso.retirar()
        caso.tertulia.oyen(*[f'* {numero:03} salió.' for numero in range(500)])


def test_conectar_y_cortar_sin_descanso_no_deja_nada():
    azar = random.Random(SEMILLA)
    with asedio(*SIN_RITMO) as caso:
        for numero in range(600):
            hostil = caso.conectar()
            hostil.enviar_lo_que_deje(azar.choice((b'', b'cor', b'corta%d\n' % numero, b'corta%d\nhola\nmed' % numero)))
            azar.choice((Persona.romper, Persona.romper, Persona.cerrar, Persona.terminar_de_hablar))(hostil)
        caso.persona('última')      # se aceptan por orden: ya no queda ninguna en la puerta
        caso.retirar()
        caso.esperar_a_estar_como(caso.base)
        caso.tertulia.oyen('* última salió.')
        caso.tertulia.rondas(2)
        entran, salen = ([linea.split()[1] for linea in caso.tertulia.ajenas('* corta') if linea.endswith(final)]
                         for final in (' entró.', ' salió.'))
        assert sorted(entran) == sorted(salen)


def test_quien_cierra_un_solo_sentido_no_deja_nada():
    with asedio() as caso:
        calla = caso.persona('calla')
        calla.decir('lo último')
        calla.terminar_de_hablar()
        caso.tertulia.oyen('[calla] lo último', '* calla salió.')
        dicho = calla.lo_que_diga()
        assert dicho[-1:] in (b'', b'\n') and b'Hasta luego' not in dicho
        mudos = [caso.conectar() for _ in range(20)]
        for mudo in mudos:
            mudo.terminar_de_hablar()
        assert {mudo.lo_que_diga() for mudo in mudos} <= {b'', b'Nick: '}      # según lo que tardara en terminar
        sordo = caso.persona('sordo')
        sordo.dejar_de_oir()
        caso.tertulia.rondas(5)
        sordo.decir('no oigo nada')
        caso.tertulia.oyen('[sordo] no oigo nada')


def test_quien_lee_un_byte_por_segundo_o_no_lee_no_para_a_nadie_ni_llena_la_memoria():
    """Veinte que no leen, con una cola para cada uno, serían 400 MiB."""
    with asedio(*SIN_RITMO) as caso:
        despacio, *_ = [caso.persona(f'lento{numero}', buzon=4096) for numero in range(20)]
        inunda = caso.persona('inunda', buzon=4096)
        texto = ('x' * 190 + '\n') * 1000
        leidos = b''
        for vuelta in range(100):
            inunda.enviar(texto.encode())
            if vuelta % 10 == 0:
                leidos += despacio.crudo(1)
                inunda.decir(f'van {vuelta}')       # quienes oyen no pueden rezagarse también
                caso.tertulia.oyen(f'[inunda] van {vuelta}')
        inunda.decir('fin')
        caso.tertulia.oyen('[inunda] fin')
        assert len(caso.tertulia.ajenas('[inunda] x')) == 100_000
        assert re.match(rb'\* lento1 e|\[(ana|luis|marta)\] \d', leidos)
        caso.comprobar_memoria()


def test_quien_se_escribe_a_si_mismo_y_no_lee_no_para_a_nadie_ni_llena_la_memoria():
    with asedio(*SIN_RITMO) as caso:
        hostil = caso.persona('eco', buzon=4096)
        privados = f'/privado eco {"x" * 190}\n'.encode() * 1000
        with sin_parar(hostil, lambda: hostil.enviar(privados)):
            caso.tertulia.segundos(5)
        caso.comprobar_memoria()


def test_quien_pregunta_sin_parar_y_no_lee_las_respuestas_no_para_a_nadie_ni_llena_la_memoria():
    with asedio(*SIN_RITMO) as caso:
        with contextlib.ExitStack() as pila:
            for numero in range(4):
                hostil = caso.persona(f'pregunta{numero}', buzon=4096)
                pila.enter_context(sin_parar(hostil, lambda hostil=hostil: hostil.enviar(b'/ayuda\n/usuarios\n' * 500)))
            caso.tertulia.segundos(1.5)
        caso.comprobar_memoria()


# ── Sin recursos ─────────────────────────────────────────────────────────────────────────────────────────────────

def pocos_descriptores():
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))


def test_sin_descriptores_se_dice_a_quien_sobra_y_se_recupera_solo():
    with asedio(preexec_fn=pocos_descriptores) as caso:
        caben = 60 - caso.base.descriptores
        dentro = [caso.persona(f'cabe{numero}') for numero in range(caben)]
        sobran = [caso.conectar() for _ in range(100)]
        for sobra in sobran:
            linea, = sobra.lo_que_diga().decode().splitlines()
            assert linea.startswith('* El servidor no admite más conexiones')
        caso.programa.hasta(lambda linea: linea.startswith('No puedo aceptar más conexiones'))
        dentro[0].decir('aquí seguimos')
        caso.tertulia.oyen('[cabe0] aquí seguimos')
        dentro[0].decir('/salir')
        dentro[0].lo_que_diga()
        dentro[0].cerrar()
        caso.tertulia.oyen('* cabe0 salió.')
        caso.esperar_a_estar_como(caso.base, hilos=caben - 1, descriptores=caben - 1)
        caso.persona_en_cuanto_quepa('relevo').decir('por fin')
        caso.tertulia.oyen('[relevo] por fin')


def pocos_hilos():
    """El límite de hilos es por usuario y no rige para el administrador: hay que ser otro, con permiso para leer lo
    mismo (el Python de las pruebas puede estar en una carpeta suya) y sin los que eximen del límite."""
    PR_CAPBSET_DROP, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 24, 21, 24
    for permiso in (CAP_SYS_ADMIN, CAP_SYS_RESOURCE):
        LIBC.prctl(PR_CAPBSET_DROP, permiso, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NPROC, (30, 30))
    os.setresuid(OTRO_USUARIO, 0, 0)


LIBC = ctypes.CDLL(None)
# Ninguno de verdad, ni el de otra batería: sus hilos son solo los del servidor.
OTRO_USUARIO = 20_000 + random.SystemRandom().randrange(30_000)


@pytest.mark.skipif(os.geteuid() != 0, reason='solo el administrador puede lanzar el servidor como otro usuario')
def test_sin_hilos_se_dice_a_quien_sobra_y_se_recupera_solo():
    with asedio(preexec_fn=pocos_hilos) as caso:
        caben = 30 - caso.base.hilos
        dentro = [caso.persona(f'cabe{numero}') for numero in range(caben)]
        for sobra in [caso.conectar() for _ in range(3)]:
            linea, = sobra.lo_que_diga().decode().splitlines()
            assert linea.startswith('* El servidor no da para más hilos.')
        caso.programa.hasta(lambda linea: linea.startswith('No puedo crear más hilos'))
        caso.tertulia.rondas(2)
        dentro[0].decir('/salir')
        dentro[0].lo_que_diga()
        caso.tertulia.oyen('* cabe0 salió.')
        caso.esperar_a_estar_como(caso.base, hilos=caben - 1, descriptores=caben - 1)
        caso.persona_en_cuanto_quepa('relevo').decir('por fin')
        caso.tertulia.oyen('[relevo] por fin')


def test_un_hilo_que_no_arranca_no_deja_rastro(monkeypatch):
    arrancar, fallan = threading.Thread.start, itertools.cycle((False, True, True))

    def a_veces(hilo):
        if hilo.name.endswith('(manejar_cliente)') and next(fallan):
            raise RuntimeError("can't start new thread")
        arrancar(hilo)

    with servidor(pausa_sin_recursos=0.01) as charla:
        ana, beto = charla.grupo('ana', 'beto')
        monkeypatch.setattr(threading.Thread, 'start', a_veces)
        dentro, fuera = 0, 0
        for numero in range(15):
            persona = charla.conectar()
            persona.decir(f'p{numero}')
            if persona.linea().startswith('* El servidor no da para más hilos.'):
                assert persona.hasta_el_final() == []
                persona.cerrar()
                fuera += 1
            else:
                dentro += 1
        assert (dentro, fuera) == (5, 10)
        esperar_a(lambda: len(charla.sala.conexiones()) == 2 + dentro, 'que se olvide a los que no caben')
        ana.decir('seguimos')
        assert beto.hasta('[ana] seguimos')


def test_con_la_sala_llena_las_que_sobran_no_gastan_nada():
    with asedio('--max-clientes', '10') as caso:
        dentro = [caso.persona(f'cabe{numero}') for numero in range(7)]
        for sobra in [caso.conectar() for _ in range(200)]:
            assert sobra.lo_que_diga().decode().startswith('* Sala llena')
            sobra.cerrar()
        caso.esperar_a_estar_como(caso.base, hilos=7, descriptores=7)
        dentro[0].cerrar()
        caso.tertulia.oyen('* cabe0 salió.')
        caso.esperar_a_estar_como(caso.base, hilos=6, descriptores=6)
        caso.persona_en_cuanto_quepa('relevo')


# ── Inundaciones ─────────────────────────────────────────────────────────────────────────────────────────────────

RAFAGA, RITMO = AjustesServidor().rafaga, AjustesServidor().ritmo


def numerados():
    """Función que da cien mensajes más cada vez, numerados desde 0."""
    numero = itertools.count()
    return lambda: ''.join(f'{next(numero)}\n' for _ in range(100)).encode()


@pytest.mark.parametrize('lineas', [numerados(), *[lambda linea=linea: linea * 1000 for linea in (
    b'\n', b'#VIVO\n', b'/usuarios\n')]], ids=['mensajes', 'vacías', '#VIVO', 'órdenes'])
def test_quien_inunda_dice_lo_que_le_toca_y_ni_una_linea_mas(lineas):
    """Cuánto lo notan los demás lo mide `python -m tests.inundacion`."""
    with asedio() as caso:
        inunda = caso.persona('inunda')
        inicio = time.monotonic()
        with sin_parar(inunda, lambda: inunda.enviar(lineas())):
            caso.tertulia.segundos(2)
            assert caso.tertulia.cuantas('[inunda] ') <= RAFAGA + RITMO * (time.monotonic() - inicio) + 1
        caso.tertulia.oyen('* inunda salió.')
        oidos = caso.tertulia.ajenas('[inunda] ')
        assert oidos == [f'[inunda] {numero}' for numero in range(len(oidos))]


@pytest.mark.parametrize('irse', [Hostil.cerrar, Hostil.romper])
def test_quien_inunda_y_se_corta_no_sigue_hablando(irse):
    """Lo que envió y aún no se ha leído son cientos de miles de mensajes: a su ritmo, horas. Cierra sin leer lo que
    dicen los demás, y eso también es un RST."""
    with asedio() as caso:
        fantasma = caso.persona('fantasma')
        fantasma.llenar(b'x\n' * 50_000)
        caso.tertulia.rondas(2)
        irse(fantasma)
        caso.tertulia.oyen('* fantasma salió.')
        caso.esperar_a_estar_como(caso.base)


def test_a_quien_se_pasa_del_ritmo_se_le_espera_y_no_se_le_descarta_nada():
    with asedio() as caso:
        hostil = caso.persona('prisa')
        hostil.decir(*map(str, range(RAFAGA + 30)))
        caso.tertulia.oyen(f'[prisa] {RAFAGA + 29}')
        assert caso.tertulia.ajenas('[') == [f'[prisa] {numero}' for numero in range(RAFAGA + 30)]


def test_una_sesion_que_se_reconecta_sin_parar_no_estrena_rafaga():
    with asedio() as caso:
        inicio = time.monotonic()
        terca = caso.sesion()
        terca.entrar('terca')
        while time.monotonic() - inicio < 2:
            terca.enviar_lo_que_deje(''.join(f'{terca.recibidos + n}\n' for n in range(RAFAGA + 20)).encode())
            caso.tertulia.rondas(1)
            terca.romper()
            terca = caso.sesion(terca.ficha, terca.visto)
            assert terca.retomada
        oidos = caso.tertulia.cuantas('[terca] ')
        assert oidos <= RAFAGA + RITMO * (time.monotonic() - inicio) + 1
        caso.tertulia.oyen(f'[terca] {RAFAGA - 1}')
        terca.romper()
        caso.tertulia.rondas(5)
        assert caso.tertulia.ajenas('[') == [f'[terca] {n}' for n in range(len(caso.tertulia.ajenas('[')))]
        assert not [linea for linea in caso.tertulia.ajenas('* ') if 'terca salió' in linea]


# ── Demasiadas desde una dirección ───────────────────────────────────────────────────────────────────────────────

def test_desde_una_direccion_entran_las_que_se_dice_y_desde_otras_tambien():
    with asedio('--max-por-ip', '5') as caso:
        dentro = [caso.persona(f'cabe{numero}', origen='127.0.0.2') for numero in range(4)]
        dentro.append(caso.conectar(origen='127.0.0.2'))    # sin nick también cuenta
        for sobra in [caso.conectar(origen='127.0.0.2') for _ in range(20)]:
            linea, = sobra.lo_que_diga().decode().splitlines()
            assert linea.startswith('* Demasiadas conexiones desde tu dirección')
            sobra.cerrar()
        caso.persona('vecina', origen='127.0.0.3')
        for una in dentro[:2]:
            una.cerrar()
        caso.tertulia.oyen('* cabe0 salió.', '* cabe1 salió.')
        caso.esperar_a_estar_como(caso.base, hilos=4, descriptores=4)
        for numero in range(2):
            caso.persona_en_cuanto_quepa(f'relevo{numero}', origen='127.0.0.2')
        linea, = caso.conectar(origen='127.0.0.2').lo_que_diga().decode().splitlines()
        assert linea.startswith('* Demasiadas conexiones desde tu dirección')


def test_las_que_se_rechazan_no_quitan_sitio_a_las_demas():
    with asedio('--max-por-ip', '4', '--max-clientes', '10') as caso:
        for _ in range(100):
            assert caso.conectar(origen='127.0.0.2') and caso.conectar(origen='127.0.0.2')
        caso.persona('vecina', origen='127.0.0.3')


def test_sin_tope_por_direccion_caben_todas():
    with asedio(*SIN_TOPE_POR_IP) as caso:
        for callada in [caso.conectar() for _ in range(600)]:
            assert callada.crudo(6) == b'Nick: '


# ── La clave ─────────────────────────────────────────────────────────────────────────────────────────────────────

CLAVE = 'sésamo, ábrete'


def pedir_clave(caso, nick='nico', **opciones):
    """Alguien que ha dicho su nick y al que se le ha preguntado la clave."""
    hostil = caso.conectar(**opciones)
    hostil.decir(nick)
    pregunta = hostil.crudo(6)
    if pregunta == b'Nick: ':      # tardó en decirlo
        pregunta = hostil.crudo(6)
    assert pregunta + hostil.crudo(1) == b'Clave: '
    return hostil


def asedio_con_clave(*argumentos):
    """Un asedio en el que las tres de la tertulia saben la clave."""
    return asedio('--clave', CLAVE, '--historial', '0', *argumentos, clave=CLAVE)


def test_con_la_clave_se_entra_y_sin_ella_no_se_ve_nada():
    with asedio_con_clave('--mostrar') as caso:
        curioso = pedir_clave(caso, 'ana')
        caso.tertulia.rondas(3)
        assert curioso.disponible() == b''
        curioso.decir('/usuarios')
        esperar_a(lambda: curioso.disponible().decode() == '* Clave incorrecta.\nClave: ', 'que se le diga')
        amigo = caso.conectar()
        amigo.decir('ana', CLAVE, 'hola')
        lineas = amigo.hasta(lambda linea: linea.startswith('* Hola, '))
        assert lineas[0].removeprefix('Clave: ') == '* Ya hay alguien que se llama ana.'
        caso.tertulia.oyen('* ana_2 entró.', '[ana_2] hola')
        assert curioso.disponible().decode() == '* Clave incorrecta.\nClave: '


def test_quien_no_sabe_la_clave_no_se_queda_con_un_nick_ni_con_un_mensaje():
    with asedio_con_clave() as caso:
        for nick in ('nico', '[nico] hola'):
            pedir_clave(caso, nick)
        amigo = pedir_clave(caso, 'nico')
        amigo.decir(CLAVE)
        assert amigo.linea() == '* Tu nick es nico'
        caso.tertulia.rondas(2)
        assert caso.tertulia.ajenas() == ['* nico entró.']


def test_a_la_tercera_clave_mala_se_cierra_y_cada_una_cuesta_un_segundo():
    with asedio_con_clave() as caso:
        inicio = time.monotonic()
        de_golpe, una_a_una = pedir_clave(caso), pedir_clave(caso)
        de_golpe.decir(*['no lo sé'] * 20, CLAVE)
        for _ in range(2):
            una_a_una.decir('no lo sé')
            assert una_a_una.linea() == '* Clave incorrecta.' and una_a_una.crudo(7) == b'Clave: '
        una_a_una.decir('no lo sé')
        for malo, antes in ((una_a_una, ''), (de_golpe, '* Clave incorrecta.\nClave: ' * 2)):
            assert malo.lo_que_diga().decode() == \
                f'{antes}* Clave incorrecta.\n* Sin la clave no se puede entrar. Adiós.\n'
            assert time.monotonic() - inicio >= 3
        assert caso.tertulia.ajenas() == []


@pytest.mark.parametrize('intento', ['', ' ', CLAVE.upper(), CLAVE[:-1], CLAVE + 'x', '\0', '\xff', '[nico]',
                                     '/salir x', CLAVE.encode().decode('latin-1'), '%s', 'x' * 60_000])
def test_lo_que_se_parece_a_la_clave_no_es_la_clave(intento):
    with servidor(clave=CLAVE, pausa_clave=0) as charla:
        persona = charla.conectar()
        persona.decir('nico')
        assert persona.crudo(7) == b'Clave: '
        persona.decir(intento)
        assert persona.linea().removeprefix('Clave: ') == '* Clave incorrecta.'
        assert charla.sala.personas == 0


def test_la_clave_acaba_donde_acaba_la_linea():
    with asedio_con_clave() as caso:
        for fin in (b'\n', b'\r\n'):
            hostil = pedir_clave(caso)
            hostil.enviar(CLAVE.encode() + fin)
            hostil.hasta(lambda linea: linea.startswith('* Hola, nico'))


def test_a_quien_no_dice_la_clave_a_tiempo_se_le_cierra():
    with servidor(clave='abc', plazo_clave=0.2) as charla:
        for dicho in ('', 'ab'):
            persona = charla.conectar()
            persona.decir('nico')
            assert persona.crudo(7) == b'Clave: '
            persona.enviar(dicho.encode())
            linea, = persona.hasta_el_final()
            assert linea.startswith('* ')


def test_la_clave_puede_venir_del_entorno_y_la_opcion_manda(monkeypatch):
    monkeypatch.setenv('CHAT_CLAVE', 'del entorno')
    for argumentos, buena in (((), 'del entorno'), (('--clave', 'de la opción'), 'de la opción')):
        with Proceso('--puerto', '0', *argumentos) as programa:
            amigo = Hostil(programa.direccion())
            amigo.decir('nico', 'la otra', buena)
            assert amigo.linea().removeprefix('Nick: ') == 'Clave: * Clave incorrecta.'
            assert amigo.linea() == 'Clave: * Tu nick es nico'
            amigo.cerrar()


def test_la_clave_no_sale_por_ninguna_parte():
    with asedio_con_clave('--mostrar') as caso:
        for dichos, respuesta in (([CLAVE], '* Hola, '), (['mala', CLAVE], '* Hola, '), (['otra mala'], '* Clave ')):
            hostil = pedir_clave(caso)
            hostil.decir(*dichos)
            hostil.hasta(lambda linea: linea.startswith(respuesta))
        sesion = caso.sesion()
        sesion.decir('sesion')
        assert sesion.linea() == '#CLAVE'
        sesion.decir(CLAVE)
        sesion.hasta(lambda linea: linea.startswith('* Hola, '))
        caso.programa.hasta(lambda linea: linea.startswith('+ sesion'))
        caso.tertulia.oyen('* sesion entró.')
        todo = '\n'.join([*caso.programa.lineas, *caso.programa.errores, *caso.tertulia.ajenas()])
        assert 'sésamo' not in todo and 'mala' not in todo


# ── Sesiones ─────────────────────────────────────────────────────────────────────────────────────────────────────

FICHA = '0123456789abcdef' * 2


@pytest.mark.parametrize('linea', [
    '#SESION', '#SESION ', f'#SESION {FICHA}', f'#SESION {FICHA} ', f'#SESION {FICHA} -1', f'#SESION {FICHA} x',
    f'#SESION {FICHA} 1 2', f'#SESION {FICHA[:-1]} 0', f'#SESION {FICHA}0 0', f'#SESION {FICHA.upper()} 0',
    f'#SESION {"g" * 32} 0', f'#SESION {FICHA} ٣', f'#SESION {FICHA} 1.0', f'#SESION {FICHA} +1',
    f'#SESION {FICHA} 0x1', f'#SESION {FICHA} 1_0', f'#SESION 0 {FICHA}', f'#SESION {"a" * 60_000} 0'])
def test_una_sesion_mal_pedida_se_dice_y_se_cierra(charla, linea):
    persona = charla.conectar()
    persona.decir(linea, 'ana', 'hola')
    *_, ultima = persona.hasta_el_final()
    assert ultima.removeprefix('Nick: ').startswith('* ')
    assert charla.sala.personas == 0


@pytest.mark.parametrize('visto', ['1000000', '9' * 30, '9' * 5000, '0' * 100])
def test_haber_visto_lo_imposible_no_rompe_nada(charla, visto):
    ana, = charla.grupo('ana')
    persona = charla.conectar()
    persona.decir(f'#SESION {FICHA} {visto}')
    assert persona.linea().removeprefix('Nick: ').startswith(('#SESION 0 nueva', '* '))
    persona.romper()
    otra = charla.persona('otra')
    otra.decir('seguimos')
    assert ana.hasta('[otra] seguimos')


def test_con_una_ficha_que_no_es_la_suya_no_se_gana_nada():
    with asedio(*SIN_RITMO, '--historial', '0') as caso:
        amigo, victima = caso.persona('amigo'), caso.sesion()
        victima.entrar('victima')
        amigo.decir('/privado victima tesoro 1')
        assert victima.hasta('[amigo] (privado) tesoro 1')
        victima.romper()
        caso.programa.hasta(lambda linea: linea.startswith('~ victima'))
        amigo.decir('/privado victima tesoro 2', 'fin')
        caso.tertulia.oyen('[amigo] fin')
        ficha = victima.ficha
        otras = [ficha[:-1] + ('0' if ficha[-1] != '0' else '1'), ficha[::-1], '0' * 32, 'f' * 32]
        for numero, otra in enumerate(otras):
            ladron = caso.sesion(otra, numero)
            assert not ladron.retomada and ladron.recibidos == 0
            lineas = ladron.entrar('victima')
            assert ladron.nick != 'victima'
            ladron.decir('#VIVO')
            lineas += ladron.hasta(lambda linea: linea.startswith('#VIVO'))
            assert not any('tesoro' in linea for linea in lineas)
        vuelta = caso.sesion(ficha, victima.visto)
        assert vuelta.retomada
        vuelta.decir('he vuelto', '#VIVO')
        lineas = vuelta.hasta(lambda linea: linea.startswith('#VIVO'))
        assert [linea for linea in lineas if 'tesoro' in linea] == ['[amigo] (privado) tesoro 2']
        caso.tertulia.oyen('[victima] he vuelto')


def test_quien_se_despidio_puede_ver_su_final_pero_no_hablar_ni_mandar():
    with asedio(*SIN_RITMO) as caso:
        sesion = caso.sesion()
        sesion.entrar('nico')
        visto = sesion.visto
        sesion.decir('/salir')
        sesion.hasta('* Hasta luego, nico.')
        sesion.romper()
        caso.tertulia.oyen('* nico salió.')
        otro = caso.persona('nico')
        for _ in range(2):
            vuelta = caso.sesion(sesion.ficha, visto)
            assert vuelta.retomada
            vuelta.enviar_lo_que_deje(b'soy nico\n/privado ana soy nico\n/nick ana_\n/usuarios\n')
            assert vuelta.lo_que_diga().decode().endswith(' * Hasta luego, nico.\n')
        otro.decir('el de verdad', '/nick nicolás', 'fin')
        caso.tertulia.oyen('[nicolás] fin')
        assert caso.tertulia.ajenas() == ['* nico entró.', '* nico salió.', '* nico entró.', '[nico] el de verdad',
                                          '* nico ahora es nicolás.', '[nicolás] fin']


def test_cincuenta_que_vuelven_a_la_vez_con_la_misma_ficha_son_una_persona_y_una_conexion():
    with asedio(*SIN_RITMO) as caso:
        sesion = caso.sesion()
        sesion.entrar('tormenta')
        conexiones = [caso.conectar() for _ in range(50)]
        for conexion in conexiones:
            conexion.enviar(f'#SESION {sesion.ficha} {sesion.visto}\n'.encode())
        viva, = caso.esperar_vivas(1, (sesion, *conexiones))
        caso.esperar_a_estar_como(caso.base, hilos=1, descriptores=1)
        viva.decir('solo soy una')
        caso.tertulia.oyen('[tormenta] solo soy una')
        testigo = caso.persona('testigo')
        testigo.decir('/usuarios')
        presentes, = [linea for linea in testigo.hasta(lambda linea: linea.startswith('* Están ')) if 'Están' in linea]
        assert presentes == '* Están ana, luis, marta, tormenta, testigo.'
        assert caso.tertulia.ajenas('* tormenta') == ['* tormenta entró.']


def test_las_sesiones_ausentes_que_se_recuerdan_son_pocas():
    with servidor(max_ausentes=3) as charla:
        testigo = charla.persona('testigo')
        fichas = [f'{numero:032x}' for numero in range(5)]
        for numero, ficha in enumerate(fichas):
            sesion = Sesion(charla.direccion, ficha)
            charla.personas.append(sesion)
            sesion.entrar(f's{numero}')
            sesion.romper()
            esperar_a(lambda: f's{numero} (reconectando)' in charla.sala.describir_presentes(), 'que se note el corte')
        retomadas = []
        for ficha in reversed(fichas):
            charla.personas.append(Sesion(charla.direccion, ficha))
            retomadas.append(charla.personas[-1].retomada)
        assert retomadas == [True, True, True, False, False]
        testigo.decir('/usuarios')
        assert 's0' not in testigo.hasta(lambda linea: linea.startswith('* Están '))[-1]


def test_miles_de_sesiones_abandonadas_no_llenan_la_memoria():
    with asedio(*SIN_RITMO) as caso:
        for numero in range(1500):
            sesion = caso.sesion()
            sesion.entrar(f's{numero}')
            sesion.decir('/privado luis hola', 'x' * 150)
            (sesion.romper if numero % 2 else sesion.cerrar)()
        caso.esperar_a_estar_como(caso.base)
        caso.tertulia.oyen(f'[s1499] {"x" * 150}')
