"""Los ajustes y la línea de órdenes que sale de ellos."""

import dataclasses

import pytest

from config import AjustesCliente, AjustesServidor, leer_opciones


def leer(*argumentos, clase=AjustesServidor):
    return leer_opciones(clase, 'programa.py', 'Qué hace.', list(argumentos))


def rechazar(capsys, *argumentos):
    """Comprueba que se rechazan con código 2 y nada en la salida; devuelve lo que se dijo."""
    with pytest.raises(SystemExit) as salida:
        leer(*argumentos)
    escrito = capsys.readouterr()
    assert salida.value.code == 2 and escrito.out == ''
    return escrito.err


@pytest.mark.parametrize('clase', [AjustesServidor, AjustesCliente])
def test_sin_opciones_vale_lo_de_siempre(clase):
    assert leer(clase=clase) == clase()


def test_lo_de_siempre_es_lo_de_clase():
    import config
    assert (config.TCP_IP, config.PUERTO, config.TAM_BUFFER) == ('127.0.0.1', 5000, 200)
    assert (AjustesServidor().host, AjustesServidor().puerto) == ('127.0.0.1', 5000)
    assert AjustesServidor().historial == 20 and AjustesServidor().plazo_nick == 60


@pytest.mark.parametrize('clase', [AjustesServidor, AjustesCliente])
def test_los_ajustes_no_se_cambian_en_marcha(clase):
    with pytest.raises(dataclasses.FrozenInstanceError):
        clase().puerto = 1


def test_las_opciones_llegan_con_su_tipo():
    ajustes = leer('--host', '127.0.0.2', '--puerto', '6000', '--max-clientes', '3', '--ritmo', '1.5', '--historial=0',
                   '--mostrar', '--max-por-ip', '0', '--clave', 'ábrete, sésamo', '--eco')
    assert ajustes == AjustesServidor(host='127.0.0.2', puerto=6000, max_clientes=3, ritmo=1.5, historial=0,
                                      mostrar=True, max_por_ip=0, clave='ábrete, sésamo', eco=True)


@pytest.mark.parametrize('clase', [AjustesServidor, AjustesCliente])
def test_la_clave_sale_de_la_variable_y_la_opcion_manda_mas(monkeypatch, clase):
    assert leer(clase=clase).clave is None
    monkeypatch.setenv('CHAT_CLAVE', 'del entorno')
    assert leer(clase=clase).clave == 'del entorno' and leer('--clave', 'otra', clase=clase).clave == 'otra'
    monkeypatch.setenv('CHAT_CLAVE', '')
    assert leer(clase=clase).clave is None


@pytest.mark.parametrize('clave', ['', ' ', '\t', '\u200b'])
def test_una_clave_en_blanco_no_cierra_nada_y_se_rechaza(capsys, clave):
    assert rechazar(capsys, '--clave', clave).startswith('Error: --clave: no puede estar en blanco\n')


@pytest.mark.parametrize('clase, argumento, valor', [
    (AjustesServidor, 'puerto', 0), (AjustesServidor, 'puerto', 65535), (AjustesServidor, 'max-clientes', 1),
    (AjustesServidor, 'ritmo', 0), (AjustesServidor, 'historial', 1000), (AjustesCliente, 'puerto', 65535),
    (AjustesCliente, 'espera', 0)])
def test_los_limites_estan_incluidos(clase, argumento, valor):
    assert getattr(leer(f'--{argumento}', str(valor), clase=clase), argumento.replace('-', '_')) == valor


@pytest.mark.parametrize('argumentos', [
    ('--puerto', '-1'), ('--puerto', '65536'), ('--max-clientes', '0'), ('--ritmo', '-0.1'), ('--historial', '1001')])
def test_fuera_de_los_limites_se_dice_cuales_son(capsys, argumentos):
    mensaje = rechazar(capsys, *argumentos)
    assert mensaje.startswith(f'Error: {argumentos[0]}: {argumentos[1]} no está entre ')
    assert '--ayuda' in mensaje


@pytest.mark.parametrize('argumentos', [('--puerto', 'cinco'), ('--puerto', ''), ('--puerto', '5.5'),
                                        ('--ritmo', 'mucho')])
def test_lo_que_no_es_un_numero_se_rechaza(capsys, argumentos):
    assert f'«{argumentos[1]}» no es un número' in rechazar(capsys, *argumentos)


@pytest.mark.parametrize('valor', ['nan', 'inf', '-inf'])
def test_un_numero_sin_sentido_se_rechaza(capsys, valor):
    assert 'no está entre' in rechazar(capsys, f'--ritmo={valor}')


def test_a_una_opcion_sin_su_valor_le_falta_su_valor(capsys):
    assert rechazar(capsys, '--puerto').startswith('Error: --puerto: falta su valor\n')


def test_a_una_opcion_sin_valor_no_se_le_da(capsys):
    assert rechazar(capsys, '--mostrar=si').startswith('Error: --mostrar: no lleva valor: ')


@pytest.mark.parametrize('argumentos', [('--color',), ('-x',), ('5000',), ('--puert', '1')])
def test_lo_desconocido_se_nombra(capsys, argumentos):
    assert rechazar(capsys, *argumentos).startswith(f'Error: no conozco {" ".join(argumentos)}\n')


@pytest.mark.parametrize('clase', [AjustesServidor, AjustesCliente])
@pytest.mark.parametrize('opcion', ['-h', '--ayuda', '--help'])
def test_la_ayuda_nombra_cada_opcion_y_termina_bien(capsys, clase, opcion):
    with pytest.raises(SystemExit) as salida:
        leer(opcion, clase=clase)
    escrito = capsys.readouterr()
    assert salida.value.code == 0 and escrito.err == ''
    assert escrito.out.startswith('Uso: python programa.py [opciones]\n\nQué hace.\n')
    for campo in dataclasses.fields(clase):
        nombre = f'  --{campo.name.replace("_", "-")}'
        assert (nombre in escrito.out) == bool(campo.metadata)
        if campo.metadata:
            assert campo.metadata['ayuda'] in escrito.out


def test_cada_opcion_dice_lo_que_vale_por_omision(capsys):
    with pytest.raises(SystemExit):
        leer('--ayuda')
    ayuda = capsys.readouterr().out
    for valor in ('127.0.0.1', '5000', '1000', '20'):
        assert f'(por omisión, {valor})' in ayuda
