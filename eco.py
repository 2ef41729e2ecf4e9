"""El eco, el primer ejercicio de todo curso de sockets: lo que llega vuelve igual.

`python server.py --eco` da a cada cliente un hilo `manejar_eco`; `python cliente.py --eco` envía líneas y mide lo que
tarda cada una en volver. No tiene nada que ver con la sala: ni nicks, ni lista, ni nadie más.
"""

import socket
import time

import protocolo
from config import TAM_LECTURA
from sala import Cliente

DESPEDIDA = 'desconectar'
MAX_MOSTRADO = 200      # caracteres de cada línea que la consola enseña


# ── El servidor ──────────────────────────────────────────────────────────────────────────────────────────────────

def manejar_eco(conexion, sala):
    """El hilo de un cliente de eco. Lee y escribe él solo, y espera a su cliente cuanto haga falta: a nadie más afecta.

    Acaba con `desconectar`, con el final de la entrada o con un corte. De la sala solo usa el registro de conexiones y
    la consola.
    """
    sala.anotar(f'{conexion} se conecta; hay {len(sala.conexiones())}')
    ultima = b''
    try:
        conexion.socket.setblocking(True)
        while datos := conexion.socket.recv(TAM_LECTURA):
            *lineas, ultima = (ultima + datos).lstrip().split(b'\n')
            for linea in datos.decode('utf-8', 'replace').split('\n'):
                if linea:
                    sala.anotar(f'{conexion}: {protocolo.limpiar(linea)[:MAX_MOSTRADO]}')
            conexion.socket.sendall(datos)
            if any(map(es_despedida, (*lineas, ultima, datos))):
                break
            if len(ultima) > MAX_MOSTRADO or not DESPEDIDA.encode().startswith(ultima.strip().lower()):
                ultima = b'-'       # lo que falte por llegar de esa línea ya no puede ser la despedida
    except OSError:
        pass    # un corte es un final como otro
    finally:
        conexion.fin.set()
        sala.anotar(f'{conexion} se va; quedan {sum(not otra.fin.is_set() for otra in sala.conexiones())}')
        sala.dejar(Cliente(conexion), conexion, '')


def es_despedida(datos):
    """Si unos bytes dicen `desconectar` y nada más."""
    return datos.strip().lower() == DESPEDIDA.encode()


# ── El cliente ───────────────────────────────────────────────────────────────────────────────────────────────────

def medir_eco(servidor, ajustes, pantalla):
    """Envía a `servidor`, `(host, puerto)`, cada línea de la entrada y muestra lo que vuelve y cuánto ha tardado.

    Devuelve el código de salida: 0, o 1 si no hay servidor o deja de responder.
    """
    host, puerto = servidor
    try:
        conexion = socket.create_connection(servidor, ajustes.plazo_conexion)
    except (OSError, UnicodeError):
        pantalla.decir(f'No hay ningún servidor en {host}:{puerto}. Para arrancar uno de eco, en otra terminal: '
                       f'python server.py --eco --puerto {puerto}')
        return 1
    with conexion:
        conexion.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conexion.settimeout(ajustes.plazo_respuesta)
        pantalla.decir(f'Conectado a {host}:{puerto}. Lo que escribas volverá; {DESPEDIDA}, para irte.')
        while (texto := pantalla.preguntar('>' if pantalla.hay_persona else '')) is not None:
            se_va = protocolo.es_salida(texto) or es_despedida(texto.encode('utf-8', 'replace'))
            if len(texto) > protocolo.TAM_BUFFER:
                pantalla.decir(protocolo.aviso_largo(texto))
            elif se_va or not protocolo.vacio(texto):
                try:
                    pantalla.mostrar(_ida_y_vuelta(conexion, DESPEDIDA if se_va else texto), '')
                except BrokenPipeError:
                    return 0
                except OSError as error:
                    pantalla.decir(f'Se ha cortado la conexión, o no hay respuesta en {ajustes.plazo_respuesta:g} s '
                                   f'({error}). ¿Es un servidor de eco?')
                    return 1
            if se_va:
                break
    return 0


def _ida_y_vuelta(conexion, texto):
    """Envía `texto` y espera sus mismos bytes. Devuelve lo que hay que enseñar; `OSError`, si no vuelve todo."""
    ida, vuelta = protocolo.codificar(texto), b''
    salida = time.perf_counter()
    try:
        conexion.sendall(ida)
        while len(vuelta) < len(ida):
            datos = conexion.recv(TAM_LECTURA)
            if not datos:
                raise ConnectionAbortedError('el servidor ha cerrado')
            vuelta += datos
    except BrokenPipeError as error:        # no es la de la pantalla
        raise ConnectionAbortedError('el servidor ha cerrado') from error
    tiempo = f'{(time.perf_counter() - salida) * 1000:.2f}'.replace('.', ',')
    recibido = protocolo.limpiar(vuelta.decode('utf-8', 'replace'))
    distinto = '' if vuelta == ida else ', y no es lo que se envió: ¿es un servidor de eco?'
    return f'{recibido} ({tiempo} ms{distinto})'
