"""Lo que el sistema cuenta de un proceso y de la máquina. Donde no lo cuenta (no es Linux), `None`, y se sigue."""

import os
import platform
import sys
import time

EN_LINUX = sys.platform.startswith('linux')


def cpu_ns(pid):
    """Nanosegundos de procesador que lleva gastados `pid`, con sus hilos; `None` si no se puede saber.

    Es `clock_getcpuclockid(3)`: cuenta nanosegundos, y /proc/<pid>/stat, centésimas de segundo.
    """
    if not EN_LINUX or pid is None:
        return None
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return None


def memoria_kib(pid):
    """KiB de memoria residente (VmRSS) de `pid`."""
    return _campo(f'/proc/{pid}/status', 'VmRSS')


def cambios_de_contexto(pid):
    """Veces que los hilos de `pid` se han dormido por su voluntad: cada despertar periódico suma una."""
    try:
        hilos = os.listdir(f'/proc/{pid}/task')
    except OSError:
        return None
    return sum(_campo(f'/proc/{pid}/task/{hilo}/status', 'voluntary_ctxt_switches') or 0 for hilo in hilos)


def _campo(ruta, nombre):
    try:
        with open(ruta, encoding='ascii', errors='replace') as archivo:
            for linea in archivo:
                if linea.startswith(nombre + ':'):
                    return int(linea.split()[1])
    except (OSError, ValueError):
        pass    # el proceso o el hilo acaba de terminar, o no hay /proc
    return None


def maquina():
    """Una línea con el procesador, los núcleos, el sistema y Python."""
    modelo = ''
    try:
        with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as archivo:
            modelo = next((linea.split(':', 1)[1].strip() for linea in archivo if linea.startswith('model name')), '')
    except OSError:
        pass
    modelo = modelo or platform.processor() or platform.machine()
    return (f'{modelo}, {os.cpu_count()} núcleos, {platform.system()} {platform.release()}, '
            f'Python {platform.python_version()}')


def subir_limite_de_descriptores():
    """Cada cliente es un descriptor aquí y otro en el servidor, que hereda este límite. Devuelve el que queda."""
    try:
        import resource
    except ImportError:
        return 500      # Windows: lo que admite `select`
    blando, duro = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (duro, duro))
    except (ValueError, OSError):
        return blando
    return duro if duro != resource.RLIM_INFINITY else 1 << 20


def subir_prioridad():
    """Que este proceso no espere turno detrás de los que mide. Devuelve si se pudo: pide ser administrador."""
    try:
        os.nice(-10)
    except (OSError, AttributeError):       # sin permiso, o en Windows
        return False
    return True
