"""`cliente.py` con la paciencia muy corta: las pruebas de redes que se congelan no tienen diez segundos por vez.

    python tests/impaciente.py [opciones de cliente.py]
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cliente  # noqa: E402  (antes hay que decir dónde está)


@dataclasses.dataclass(frozen=True)
class AjustesImpacientes(cliente.AjustesCliente):
    silencio: float = 0.4
    plazo_respuesta: float = 0.4


if __name__ == '__main__':
    cliente.AjustesCliente = AjustesImpacientes
    sys.exit(cliente.main())
