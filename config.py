"""Los ajustes: cada valor por omisión, una sola vez, con su unidad y su porqué.

Hay una clase por programa. Un campo hecho con `opcion` es además una opción de la línea de órdenes:
de él salen su nombre, su tipo, sus límites y su ayuda. Los demás campos solo se cambian desde las pruebas.
"""

import argparse
import os
from dataclasses import dataclass, field, fields

TCP_IP = '127.0.0.1'       # solo esta máquina: abrirse a la red ha de ser una decisión
PUERTO = 5000              # el de siempre en clase; no necesita permisos
TAM_BUFFER = 200           # caracteres de un mensaje: cabe en dos o tres renglones de terminal
TAM_NICK = 20              # caracteres de un nick
MAX_LINEA = 64 * 1024      # bytes sin un fin de línea: ningún mensaje válido se acerca
TAM_LECTURA = 16 * 1024    # bytes por `recv`: unos 250 mensajes, y 10.000 hilos lo pueden pedir a la vez
MAX_CONEXIONES = 500 if os.name == 'nt' else 100_000    # el `select` de Windows admite 512 sockets


def opcion(defecto, ayuda, *, minimo=None, maximo=None, variable=None):
    """Campo que es también opción. `minimo` y `maximo` (incluidos) valen para los números; `variable` es la del entorno
    que da su valor si no se escribe la opción."""
    return field(default=defecto, metadata={'ayuda': ayuda, 'minimo': minimo, 'maximo': maximo, 'variable': variable})


@dataclass(frozen=True)
class AjustesServidor:
    """Lo que gobierna `python server.py`. Tiempos en segundos, tamaños en bytes."""

    host: str = opcion(TCP_IP, 'dirección en la que escucha')
    puerto: int = opcion(PUERTO, 'puerto en el que escucha; 0 = uno libre cualquiera', minimo=0, maximo=65535)
    max_clientes: int = opcion(min(1000, MAX_CONEXIONES), 'conexiones a la vez, cada una con su hilo',
                               minimo=1, maximo=MAX_CONEXIONES)
    max_por_ip: int = opcion(500, 'conexiones a la vez desde una misma dirección; 0 = sin límite',
                             minimo=0, maximo=MAX_CONEXIONES)
    ritmo: float = opcion(20.0, 'mensajes por segundo que un cliente puede sostener; 0 = sin límite',
                          minimo=0, maximo=1_000_000)
    historial: int = opcion(20, 'últimos mensajes que recibe quien entra', minimo=0, maximo=1000)
    clave: str = opcion(None, 'clave que se pide para entrar; mejor en la variable CHAT_CLAVE, que no se ve en la lista '
                              'de procesos', variable='CHAT_CLAVE')
    eco: bool = opcion(False, 'servidor de eco en lugar de la sala: devuelve a cada uno lo que envía')
    mostrar: bool = opcion(False, 'muestra también los mensajes, no solo quién entra y sale')

    rafaga: int = 100                   # mensajes seguidos antes de frenar a `ritmo`: pegar un texto no espera
    espera_pregunta: float = 0.5        # silencio tras el cual se pregunta `Nick: `; un programa ya habría hablado
    espera_marco: float = 1.0           # desde el primer byte: sin un fin de línea, ese cliente no los pone
    plazo_nick: float = 60.0            # para decir el nick; después, la conexión solo ocupa un hilo
    intentos_nick: int = 3              # nicks vacíos antes de cerrar
    plazo_clave: float = 30.0           # para acertar la clave
    intentos_clave: int = 3             # claves equivocadas antes de cerrar
    pausa_clave: float = 1.0            # tras cada una: probar muchas ha de ser lento
    plazo_ausencia: float = 30.0        # tras un corte, antes de dar a alguien por ido: un ascensor, un cambio de red
    max_ausentes: int = 1000            # sesiones sin conexión que se recuerdan; cada una ocupa un KiB
    max_ausentes_por_ip: int = 500      # de una misma dirección, si `max_por_ip` no es 0: que no eche a las demás
    latido: float = 3.0                 # cada cuánto se dice a un programa frenado por su ritmo que se le sigue oyendo
    plazo_cierre: float = 2.0           # para que quien se va, o el servidor al cerrar, vacíe lo pendiente
    pausa_sin_recursos: float = 0.5     # entre intentos de aceptar cuando no quedan descriptores o hilos
    max_pendiente: int = 512 * 1024     # lo leído y aún no repartido: con más, los lectores esperan
    max_memoria: int = 16 * 1024 ** 2   # lo repartido que se guarda para los rezagados
    max_apuntes: int = 10_000           # líneas que esperan si la consola se queda parada (Ctrl+S, selección)
    pila_hilo: int = 256 * 1024         # de cada hilo; la habitual (8 MiB) no deja sitio para miles
    keepalive: tuple = (60, 15, 4)      # silencio, entre sondeos, sondeos: un muerto se nota a los dos minutos


@dataclass(frozen=True)
class AjustesCliente:
    """Lo que gobierna `python cliente.py`. Tiempos en segundos; `None` significa «se pregunta» o «según el caso»."""

    host: str = opcion(TCP_IP, 'dirección del servidor')
    puerto: int = opcion(None, f'puerto del servidor; 0 = {PUERTO}; si falta, se pregunta', minimo=0, maximo=65535)
    nick: str = opcion(None, 'tu nombre en la sala; si falta, se pregunta')
    clave: str = opcion(None, 'clave de la sala; mejor en la variable CHAT_CLAVE; si hace falta y no está, se pregunta',
                        variable='CHAT_CLAVE')
    espera: float = opcion(None, 'segundos que insiste en conectar; si falta, no se rinde ante una persona, '
                                 'y 10 si la entrada no es un teclado', minimo=0, maximo=1_000_000)
    simple: bool = opcion(False, 'sin mover el cursor: para lectores de pantalla y terminales muy sencillas')
    eco: bool = opcion(False, 'cliente de un servidor de eco: envía cada línea y dice lo que tarda en volver')
    sin_color: bool = opcion(False, 'sin colores; también con la variable NO_COLOR')

    espera_sin_teclado: float = 10.0     # un guion no debe quedarse colgado
    pausa_minima: float = 0.5            # entre intentos de conexión: crece de esta a la máxima, con algo de azar
    pausa_maxima: float = 5.0            # para que cien clientes no vuelvan todos en el mismo instante
    plazo_conexion: float = 5.0          # de cada intento
    plazo_entrada: float = 10.0          # desde que se conecta hasta que el servidor confirma el nick
    plazo_clave: float = 60.0            # lo mismo, cuando hay que teclear la clave: el servidor se cansará antes
    intentos_clave: int = 3              # claves equivocadas antes de dejarlo
    silencio: float = 5.0                # sin recibir nada, se pregunta al servidor si sigue ahí
    plazo_respuesta: float = 5.0         # y si en esto tampoco llega nada, se da la conexión por muerta
    cada_acuse: int = 100                # líneas enviadas tras las que se pregunta cuántas se han aceptado
    plazo_despedida: float = 2.0         # que Ctrl+C espera a que el servidor se dé por enterado
    max_rechazos: int = 20               # líneas que se enseñan de quien no deja entrar: puede no ser una sala
    max_pendientes: int = 1000           # líneas escritas sin conexión que se guardan: las últimas
    max_linea_leida: int = 16 * 1024 ** 2  # bytes de una línea de la entrada: más no es texto, y llenaría la memoria


class _Analizador(argparse.ArgumentParser):
    """`argparse` con sus mensajes en español: los suyos están en inglés y no se dejan traducir por partes."""

    _TRADUCCION = {'expected one argument': 'falta su valor', 'ignored explicit argument': 'no lleva valor:'}

    def error(self, mensaje):
        for ingles, espanol in self._TRADUCCION.items():
            mensaje = mensaje.replace(ingles, espanol)
        mensaje = mensaje.removeprefix('argument ')
        self.exit(2, f'Error: {mensaje}\nPara ver las opciones: python {self.prog} --ayuda\n')


def leer_opciones(clase, programa, descripcion, argumentos=None):
    """Hace una instancia de `clase` con la línea de órdenes (`None`: la del proceso).

    Con algo que no entiende, lo dice en español y termina el programa con código 2; con `--ayuda`, con 0.
    """
    analizador = _Analizador(prog=programa, add_help=False, allow_abbrev=False)
    opciones = [campo for campo in fields(clase) if campo.metadata]
    analizador.add_argument('-h', '--help', '--ayuda', dest='ayuda', action='store_true')
    for campo in opciones:
        nombre = '--' + campo.name.replace('_', '-')
        if campo.type is bool:
            analizador.add_argument(nombre, action='store_true')
        else:
            defecto = os.environ.get(campo.metadata['variable'] or '') or campo.default
            analizador.add_argument(nombre, type=_conversor(campo), default=defecto)
    valores, sobra = analizador.parse_known_args(argumentos)
    if valores.ayuda:
        print(_ayuda(programa, descripcion, opciones))
        analizador.exit(0)
    if sobra:
        analizador.error(f'no conozco {" ".join(sobra)}')
    return clase(**{campo.name: getattr(valores, campo.name) for campo in opciones})


def _conversor(campo):
    minimo, maximo = campo.metadata['minimo'], campo.metadata['maximo']

    def convertir(texto):
        try:
            valor = campo.type(texto)
        except ValueError:
            raise argparse.ArgumentTypeError(f'«{texto}» no es un número') from None
        if minimo is not None and not minimo <= valor <= maximo:
            raise argparse.ArgumentTypeError(f'{texto} no está entre {minimo} y {maximo}')
        if campo.metadata['variable'] and not ''.join(filter(str.isprintable, texto)).strip():
            raise argparse.ArgumentTypeError('no puede estar en blanco')     # entraría cualquiera
        return valor

    return convertir


def _ayuda(programa, descripcion, opciones):
    lineas = [f'Uso: python {programa} [opciones]', '', descripcion, '', 'Opciones:']
    for campo in opciones:
        nombre = '--' + campo.name.replace('_', '-')
        valor = '' if campo.type is bool else f' {campo.name[0].upper()}' if campo.type is str else ' N'
        defecto = '' if campo.default in (None, False) else f' (por omisión, {campo.default:g})' \
            if campo.type is not str else f' (por omisión, {campo.default})'
        lineas.append(f'  {nombre + valor:<26}{campo.metadata["ayuda"]}{defecto}')
    lineas.append(f'  {"-h, --ayuda":<26}muestra esta ayuda')
    return '\n'.join(lineas)
