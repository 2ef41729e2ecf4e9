"""`python -m tests.aguante --segundos N --semilla S [--clientes C]`, desde la carpeta del proyecto.

`server.py` y unos cuantos `cliente.py` que hablan sin parar por una red que corta y congela. Al final la red sana, se
espera a que todos lo hayan visto todo y se dice si alguna promesa ha fallado y si algo crece: hilos, descriptores o
memoria. Termina con 0 si todo ha ido bien; con 1, si no; con 2, si no entiende la orden.
"""

import argparse
import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from typing import NamedTuple

from tests import tertulia
from tests.procesos import Proceso
from tests.proxy import ProxyCortante
from tests.utiles import esperar_a

RITMO = 20                  # líneas por segundo de cada uno
VIDA = (0.1, 5.0)           # segundos de cada conexión
CONGELACION = (0.1, 15.0)   # segundos: más y menos de lo que aguanta la paciencia del cliente
MUESTRA = 60.0              # segundos entre medidas
MARGEN = 1                  # descriptores de más en un cliente: al medir, tal vez estaba entre dos conexiones
MAX_CRECE_SERVIDOR = 32 * 1024      # KiB: la charla que se guarda (`max_memoria`, 16 MiB) y lo que Python le añade
MAX_CRECE_CLIENTE = 16 * 1024       # KiB


class Medida(NamedTuple):
    """Lo que un proceso tiene en un momento."""

    hilos: int
    descriptores: int
    memoria: int        # KiB residentes

    @classmethod
    def de(cls, proceso):
        carpeta = f'/proc/{proceso.pid}'
        with open(f'{carpeta}/status') as estado:
            memoria = next(int(linea.split()[1]) for linea in estado if linea.startswith('VmRSS:'))
        return cls(len(os.listdir(f'{carpeta}/task')), len(os.listdir(f'{carpeta}/fd')), memoria)

    def __str__(self):
        return f'{self.hilos} hilos, {self.descriptores} descriptores, {self.memoria / 1024:.1f} MiB'


class _Analizador(argparse.ArgumentParser):
    def error(self, message):
        message = message.replace('unrecognized arguments:', 'no conozco').replace(
            'expected one argument', 'falta su valor').replace(
            'invalid int value:', 'no es un número entero:').replace('argument ', '')
        self.exit(2, f'Error: {message}\nUso: python -m tests.aguante --segundos N --semilla S [--clientes C]\n')


def leer_orden():
    analizador = _Analizador(prog='python -m tests.aguante', add_help=False, allow_abbrev=False)
    analizador.add_argument('-h', '--help', '--ayuda', dest='ayuda', action='store_true')
    analizador.add_argument('--segundos', type=int, default=60)
    analizador.add_argument('--semilla', type=int, default=1)
    analizador.add_argument('--clientes', type=int, default=len(tertulia.NICKS))
    orden = analizador.parse_args()
    if orden.ayuda:
        print(__doc__)
        analizador.exit(0)
    if orden.segundos < 1 or orden.clientes < 2:
        analizador.error('hacen falta un segundo y dos clientes, por lo menos')
    return orden


@contextlib.contextmanager
def lanzador():
    """Función que lanza programas; al salir se matan los que queden."""
    vivos = []

    def lanzar(*argumentos):
        vivos.append(Proceso(*argumentos))
        return vivos[-1]

    try:
        yield lanzar
    finally:
        for proceso in reversed(vivos):
            proceso.matar()


class Aguante:
    """Una sala, su gente y lo que se mide de todos."""

    def __init__(self, lanzar, orden):
        self._lanzar, self._orden, self._inicio = lanzar, orden, time.monotonic()
        self.servidor = lanzar('server.py', '--puerto', 0, '--ritmo', 0)
        self.servidor.esperar('Escuchando en ')
        self.direccion = '127.0.0.1', int(self.servidor.salida.split(':')[1].split()[0])
        self.medidas = {'servidor': [Medida.de(self.servidor)]}
        self.gente, self.codigos = [], []
        self._avisar(f'Servidor sin nadie: {self.medidas["servidor"][0]}')

    def _avisar(self, texto):
        print(f'[{time.monotonic() - self._inicio:5.0f} s] {texto}', flush=True)

    def _medir(self):
        for uno in self.gente:
            self.medidas.setdefault(uno.nick, []).append(Medida.de(uno.proceso))
        self.medidas['servidor'].append(Medida.de(self.servidor))
        self._avisar('; '.join(f'{nombre}: {suyas[-1]}' for nombre, suyas in self.medidas.items()))

    def charlar(self):
        """Todos entran, hablan mientras la red corta, y se van cuando todos lo han visto todo."""
        orden, basta = self._orden, threading.Event()
        with ProxyCortante(self.direccion, orden.semilla, vida=VIDA, congelacion=CONGELACION) as proxy:
            self.gente = tertulia.reunir(self._lanzar, proxy.direccion[1], orden.clientes)
            self._medir()
            for uno in self.gente:
                uno.hablar(itertools.takewhile(lambda _: not basta.wait(1 / RITMO), itertools.count(1)))
            fin = time.monotonic() + orden.segundos
            while (queda := fin - time.monotonic()) > 0:
                basta.wait(min(MUESTRA, queda))
                self._medir()
            basta.set()
            proxy.dejar_de_cortar()
            self._avisar(f'La red ya no corta. Lo que ha hecho: {proxy.resumen()}.')
            tertulia.esperar_a_que_lo_vean_todo(self.gente)
            self._medir()
            self.codigos = [uno.despedirse() for uno in self.gente]
        self._avisar('Todos lo han visto todo y se han ido.')

    def cerrar(self):
        """Espera a que el servidor suelte lo que tenía por la gente, lo mide y lo para."""
        vacio, suyas = self.medidas['servidor'][0], self.medidas['servidor']
        with contextlib.suppress(AssertionError):       # si no lo suelta, la medida lo dirá
            esperar_a(lambda: Medida.de(self.servidor)[:2] <= vacio[:2])
        suyas.append(Medida.de(self.servidor))
        self.servidor.enviar_senal(signal.SIGTERM)
        self.codigos.append(self.servidor.acabar())

    def informe(self):
        """Las cifras, en texto."""
        for nombre, suyas in self.medidas.items():
            yield (f'{nombre}: al empezar, {suyas[0]}; como mucho, {max(medida.hilos for medida in suyas)} hilos, '
                   f'{max(medida.descriptores for medida in suyas)} descriptores y '
                   f'{max(medida.memoria for medida in suyas) / 1024:.1f} MiB; al final, {suyas[-1]}')
        vistas = sum(linea.startswith('[') for uno in self.gente for linea in uno.vistas())
        yield f'{sum(len(uno.dichas) for uno in self.gente)} líneas dichas y {vistas} vistas. {self._despedida()}'

    def _despedida(self):
        return self.servidor.salida.splitlines()[-1]

    def faltas(self):
        """En qué se ha faltado a lo prometido: textos, con las líneas y las cifras que lo demuestran."""
        yield from tertulia.faltas(self.gente)
        if any(self.codigos):
            yield f'códigos de salida de los clientes y del servidor: {self.codigos}'
        if self.servidor.errores:
            yield f'el servidor ha fallado:\n{self.servidor.errores}'
        dichas = sum(len(uno.dichas) for uno in self.gente)
        if f'mensajes {dichas}, ' not in self._despedida():
            yield f'el servidor no ha contado {dichas} mensajes: {self._despedida()}'
        for nombre, (primera, *_, ultima) in self.medidas.items():
            sobra, maximo = (0, MAX_CRECE_SERVIDOR) if nombre == 'servidor' else (MARGEN, MAX_CRECE_CLIENTE)
            if ultima.hilos > primera.hilos or ultima.descriptores > primera.descriptores + sobra:
                yield f'{nombre} no suelta lo que toma: al empezar, {primera}; al final, {ultima}'
            if ultima.memoria > primera.memoria + maximo:
                yield f'{nombre} crece más de {maximo // 1024} MiB: al empezar, {primera}; al final, {ultima}'


def interrumpir(*_):
    raise KeyboardInterrupt


def main():
    orden = leer_orden()
    signal.signal(signal.SIGTERM, interrumpir)
    with lanzador() as lanzar:
        aguante = Aguante(lanzar, orden)
        try:
            aguante.charlar()
            aguante.cerrar()
            faltas = list(aguante.faltas())
        except AssertionError as fallo:
            faltas = [str(fallo)]
        print(*aguante.informe(), *(f'FALTA: {falta}' for falta in faltas), sep='\n')
    if faltas:
        print(f'No aguanta: {len(faltas)} faltas. Para repetirlo: --segundos {orden.segundos} '
              f'--semilla {orden.semilla} --clientes {orden.clientes}')
        return 1
    print('Aguanta: nada perdido, repetido ni desordenado, ningún eco, y nada que crezca.')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
