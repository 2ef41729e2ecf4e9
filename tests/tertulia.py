"""Gente que habla por la sala con `cliente.py`, y la comprobación de que a nadie se le ha fallado.

Lo comparten `test_cortes.py` y `aguante.py`.
"""

import collections
import contextlib
import itertools
import re
import threading

from tests.utiles import PLAZO

NICKS = ('ana', 'luis', 'Íñigo', 'eva')
HITO = 50           # líneas: cada cuántas se comprueba que la charla avanza
MAX_CASOS = 5       # de cada falta y persona, cuántos se cuentan uno por uno
_PASO = re.compile(r'\* \S+ (entró|salió)\.')


def nick_de(puesto):
    """El nick de la persona que hace el número `puesto`, desde 0: los de `NICKS` y luego `bot_4`, `bot_5`…"""
    return NICKS[puesto] if puesto < len(NICKS) else f'bot_{puesto}'


class Contertulio:
    """Un `cliente.py` en marcha (`proceso`), quién es, y lo que ha dicho."""

    def __init__(self, proceso, nick):
        self.proceso, self.nick = proceso, nick
        self.dichas = []        # sin prefijo, en su orden
        self._hilo = None

    def linea(self, numero):
        """Su línea número `numero`: no hay dos iguales, y cada una mide lo suyo."""
        return f'{self.nick} {numero:06} ¿qué tal el año? {"ñandú 漢字 😀 …"[:numero % 13]}|'

    def hablar(self, numeros):
        """Dice una línea por cada uno de `numeros`, desde un hilo: si el cliente no da abasto, solo espera ese hilo."""
        self._hilo = threading.Thread(target=self._hablar, args=(numeros,), daemon=True)
        self._hilo.start()

    def _hablar(self, numeros):
        with contextlib.suppress(BrokenPipeError):      # el cliente ha muerto: ya se verá en todo lo que falte
            for numero in numeros:
                self.dichas.append(self.linea(numero))
                self.proceso.escribir(self.dichas[-1] + '\n')

    def terminar_de_hablar(self):
        """Espera a haberlo dicho todo."""
        self._hilo.join(PLAZO)
        assert not self._hilo.is_alive(), f'el cliente de {self.nick} no lee lo que se le escribe'

    def despedirse(self):
        """Acaba su entrada, que es como irse, y espera a que termine. Devuelve su código de salida."""
        self.proceso.cerrar_entrada()
        return self.proceso.acabar()

    def vistas(self):
        """Las líneas enteras que la sala le ha dicho, con su prefijo."""
        return self.proceso.salida.split('\n')[:-1]


def reunir(lanzar, puerto, cuantos, *opciones, programa='cliente.py', **mas):
    """`cuantos` contertulios que ya están todos dentro: de lo que se diga desde ahora no se pueden perder nada."""
    gente = [Contertulio(lanzar(programa, '--puerto', puerto, '--nick', nick, '--espera', 60, *opciones, **mas), nick)
             for nick in map(nick_de, range(cuantos))]
    for uno in gente:
        uno.proceso.esperar(f'* Hola, {uno.nick}.')
    return gente


def esperar_a_que_lo_vean_todo(gente):
    """Espera a que cada uno vea la última línea de los demás. El plazo es para cada `HITO`, no para todo."""
    for uno in gente:
        uno.terminar_de_hablar()
    for uno, otro in itertools.permutations(gente, 2):
        hitos = [f'[{otro.nick}] {linea}' for linea in otro.dichas[HITO - 1::HITO] + otro.dichas[-1:]]
        vistas = set(uno.vistas())
        for hito in (hito for hito in hitos if hito not in vistas):
            try:
                uno.proceso.esperar(f'{hito}\n')
            except AssertionError:
                raise AssertionError(f'{uno.nick} no ha llegado a ver «{hito}».\n' + '\n'.join(faltas(gente)) + '\n'
                                     + errores(gente)) from None


def errores(gente):
    """Lo que cada cliente ha dicho de sí mismo."""
    return '\n'.join(f'── {uno.nick}, errores:\n{uno.proceso.errores[-2000:]}' for uno in gente)


# ── Lo que se le promete a cada uno ──────────────────────────────────────────────────────────────────────────────

def faltas(gente):
    """En qué se ha faltado a lo prometido, con las líneas que lo demuestran: una lista de textos, vacía si en nada."""
    vistas = [uno.vistas() for uno in gente]
    de_cada_uno = [faltas_con(uno, gente, suyas) for uno, suyas in zip(gente, vistas)]
    de_cada_dos = [orden_distinto(*par) for par in itertools.combinations(zip(gente, vistas), 2)]
    return list(itertools.chain(*de_cada_uno, *de_cada_dos))


def faltas_con(uno, gente, vistas):
    """Pérdidas, repeticiones, desórdenes, ecos de lo propio y avisos que no tocan."""
    veces = collections.Counter(vistas)
    ajenas = {otro.nick: [f'[{otro.nick}] {linea}' for linea in otro.dichas] for otro in gente if otro is not uno}
    puestos = {linea: (nick, puesto) for nick, lineas in ajenas.items() for puesto, linea in enumerate(lineas)}
    mensajes = [linea for linea in veces if linea.startswith('[')]
    propios = [linea for linea in mensajes if linea.startswith(f'[{uno.nick}] ')]
    casos = {
        'no ha visto': [linea for linea in puestos if linea not in veces],
        'ha visto más de una vez': [f'{linea} ({veces[linea]} veces)' for linea in mensajes if veces[linea] > 1],
        'ha visto de vuelta lo suyo': propios,
        'ha visto lo que nadie dijo': [linea for linea in mensajes if linea not in puestos and linea not in propios],
        'ha visto tarde': _adelantadas([linea for linea in mensajes if linea in puestos], puestos),
        'ha visto un aviso que no tocaba': [linea for linea in veces if linea.startswith('* Te perdiste')
                                            or _PASO.fullmatch(linea) and veces[linea] > 1],
    }
    textos = [f'{uno.nick} {falta}: «{caso}»' for falta, todos in casos.items() for caso in todos[:MAX_CASOS]]
    textos += [f'{uno.nick} {falta}: {len(todos)} en total' for falta, todos in casos.items() if len(todos) > MAX_CASOS]
    if 'Traceback' in uno.proceso.todo:
        textos.append(f'el cliente de {uno.nick} ha fallado:\n{uno.proceso.errores}')
    return textos


def _adelantadas(lineas, puestos):
    """Las líneas a las que se adelantó una posterior de su mismo autor."""
    ultimo, tarde = {}, []
    for linea in lineas:
        nick, puesto = puestos[linea]
        if puesto < ultimo.get(nick, (-1,))[0]:
            tarde.append(f'{linea} (después de {ultimo[nick][1]})')
        else:
            ultimo[nick] = puesto, linea
    return tarde


def orden_distinto(uno_y_vistas, otro_y_vistas):
    """El primer punto en que dos personas no han visto lo mismo en el mismo orden: una lista con un texto, o vacía."""
    (uno, suyas), (otro, las_otras) = uno_y_vistas, otro_y_vistas
    comunes = {linea for linea in set(suyas) & set(las_otras)
               if linea.startswith('[') and not linea.startswith((f'[{uno.nick}] ', f'[{otro.nick}] '))}
    sucesiones = [[linea for linea in dict.fromkeys(vistas) if linea in comunes] for vistas in (suyas, las_otras)]
    for anterior, (de_uno, de_otro) in zip(['el principio', *sucesiones[0]], zip(*sucesiones)):
        if de_uno != de_otro:
            return [f'tras «{anterior}», {uno.nick} ha visto «{de_uno}» y {otro.nick}, «{de_otro}»']
    return []
