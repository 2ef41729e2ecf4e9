"""Los escenarios: qué se mide de cada servidor y con cuánto. Cada uno da sus medidas, una a una, según las hace.

Una medida es un diccionario: `escenario`, `servidor`, `variante` y lo que cuentan `generador.py` y `comprobar.py`, o
`fallo`. A los servidores lentos se les dan menos mensajes: lo que se compara es la velocidad, no lo que tardan.
"""

import multiprocessing
import statistics

from .generador import Plan, ejecutar
from .servidores import SALA, NoDisponible, Servidor, nick, texto

RIVALES = ('selectores', 'ngircd', 'asyncio', 'hilos')
ANCHO_ENTREGA = len(SALA.entrega.format(nick=nick(0), texto=texto(0)))
PLAZO_COMPROBACION = 90.0       # segundos, además de los plazos de la propia medida


def rafaga(rapido):
    """100 clientes envían a la vez, tan rápido como pueden"""
    por_cliente = {'nosotros': 3000, 'selectores': 1000, 'ngircd': 300, 'asyncio': 30, 'hilos': 20}
    for servidor, cuantos in por_cliente.items():
        if rapido and servidor == 'hilos':
            continue
        repeticiones = 1 if rapido or servidor != 'nosotros' else 3
        yield _mediana([medir('rafaga', servidor, clientes=101, emisores=100,
                              mensajes=100 * (cuantos // 6 if rapido else cuantos)) for _ in range(repeticiones)])


def orador(rapido):
    """100 clientes; envía uno, tan rápido como puede"""
    mensajes = {'nosotros': 280_000, 'techo': 280_000, 'selectores': 120_000, 'ngircd': 30_000, 'asyncio': 3000,
                'hilos': 2000}
    for servidor, cuantos in mensajes.items():
        if rapido and servidor not in ('nosotros', 'techo'):
            continue
        repeticiones = 3 if not rapido and servidor in ('nosotros', 'techo') else 1
        yield _mediana([medir('orador', servidor, clientes=100, emisores=1,
                              mensajes=cuantos // 6 if rapido else cuantos) for _ in range(repeticiones)])


def charla(rapido):
    """100 clientes hablan a un ritmo fijo, en total de 1.000 y de 10.000 mensajes/s"""
    segundos = 1 if rapido else 5
    for ritmo in (1000, 10_000):
        servidores = ('nosotros', *RIVALES)
        if rapido:
            servidores = ('nosotros', 'asyncio') if ritmo == 1000 else ('nosotros', 'ngircd')
        for servidor in servidores:
            yield medir('charla', servidor, _miles(ritmo) + '/s', clientes=101, emisores=100, ritmo=ritmo,
                        mensajes=ritmo * segundos, limite=segundos + 10)


def mil(rapido):
    """1.000 clientes, 1.000 mensajes/s en total: un millón de entregas por segundo"""
    segundos = 1 if rapido else 5
    for servidor in ('nosotros',) if rapido else ('nosotros', 'ngircd', 'asyncio'):
        yield medir('mil', servidor, clientes=1001, emisores=1000, ritmo=1000, mensajes=1000 * segundos,
                    limite=segundos + 10)


def diez_mil(rapido):
    """10.000 clientes conectados, 10 mensajes/s"""
    for servidor in () if rapido else ('nosotros', 'ngircd'):
        yield medir('diez_mil', servidor, clientes=10_000, emisores=1000, ritmo=10, mensajes=50, limite=20)


def detenidos(rapido):
    """Ráfaga de 100 clientes, con y sin otros 10 que no leen nunca"""
    con, sin = [], []
    for _ in range(1 if rapido else 3):     # alternados: si la máquina está ocupada, que lo esté para los dos
        for detenidos_, donde in ((0, sin), (10, con)):
            donde.append(medir('detenidos', 'nosotros', f'{detenidos_} detenidos', clientes=101 + detenidos_,
                               emisores=100, mensajes=100 * (300 if rapido else 2500), detenidos=detenidos_))
    yield _mediana(sin)
    yield _mediana(con)


def reposo(rapido):
    """1.000 clientes callados"""
    yield medir('reposo', 'nosotros', clientes=1000, segundos=3 if rapido else 10)


def crecimiento(rapido):
    """Lo que cuesta una entrega según cuántos clientes haya; hablan 4"""
    mensajes = {10: 400_000, 100: 100_000, 1000: 10_000, 10_000: 1000}
    for clientes, cuantos in mensajes.items():
        if not (rapido and clientes > 100):
            yield medir('crecimiento', 'nosotros', f'{_miles(clientes)} clientes', clientes=clientes, emisores=4,
                        mensajes=cuantos // 8 if rapido else cuantos)


ESCENARIOS = {funcion.__name__: funcion
              for funcion in (rafaga, orador, charla, mil, diez_mil, detenidos, reposo, crecimiento)}


def medir(escenario, servidor, variante='', **plan):
    """Arranca `servidor`, le hace una medida desde otro proceso y lo para."""
    medida = {'escenario': escenario, 'servidor': servidor, 'variante': variante, 'plan': plan}
    techo = (plan['mensajes'] * ANCHO_ENTREGA, ANCHO_ENTREGA) if servidor == 'techo' else ()
    try:
        with Servidor(servidor, plan['clientes'], techo) as marcha:
            medida.update(_generar(marcha, Plan(marcha.idioma, marcha.puerto, marcha.pid, techo=bool(techo), **plan)))
    except NoDisponible as error:
        medida.update(fallo=str(error), ausente=True)
    if medida.get('duracion') and medida.get('entregas'):
        medida['velocidad'] = medida['entregas'] / medida['duracion'] * 1e9
    return medida


def _generar(marcha, plan):
    lectura, escritura = multiprocessing.Pipe(duplex=False)
    proceso = multiprocessing.get_context('spawn').Process(target=ejecutar, args=(plan, escritura), daemon=True)
    proceso.start()
    escritura.close()
    try:
        if not lectura.poll(plan.limite_entrada + plan.limite + plan.segundos + PLAZO_COMPROBACION):
            return {'fallo': 'el generador no responde'}
        return lectura.recv()
    except EOFError:
        return {'fallo': 'el generador terminó sin decir nada'}
    finally:
        marcha.pedir_fin()      # antes que los clientes: que no anuncie a cada uno la salida de todos los demás
        proceso.kill()
        proceso.join()
        lectura.close()


def _mediana(medidas):
    """La medida de velocidad mediana; si alguna falló, esa: un error no se esconde detrás de otras que fueron bien."""
    for medida in medidas:
        if medida.get('fallo') or medida['errores'] or not medida['terminado']:
            return medida
    velocidad = statistics.median_low([medida['velocidad'] for medida in medidas])
    return next(medida for medida in medidas if medida['velocidad'] == velocidad)


def _miles(numero):
    return f'{numero:,}'.replace(',', '.')
