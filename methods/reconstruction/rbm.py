"""RBM: make images more likely than what the model makes of them, one layer after the other.

Hinton 2002. Training Products of Experts by Minimizing Contrastive Divergence. Neural Computation
14. Stacked as in Hinton, Salakhutdinov 2006. Reducing the Dimensionality of Data with Neural
Networks. Science 313. Practice: Hinton 2010. A Practical Guide to Training Restricted Boltzmann
Machines. UTML TR 2010-003.

Defaults: those of the second, with its authors' code (rates, momentum, decay, 50 passes per layer);
initial weights of deviation 0.01 are the third's. Gaussian units learn 100 times slower; for an
encoder of visible = "bernoulli" the recipe's groups are left out.
Differs from the paper: Gibbs sampling draws the visible units too, where the code of the second
takes their means; the momentum is 0.9 from the start instead of 0.5 in the first five passes; the
top layer is binary as all others, where the second's is linear; the stack is not fine-tuned as an
autoencoder.

Measured: leaderboards/vision-methods (cifar10-mini, 7,000 images, 20 epochs, 3 seeds, test n =
2,000), gain over `untrained-rbm` of the same encoder: kNN +.103 [.086, .121] to .383, linear +.032
[.016, .048] to .390, at the best layer +.016 [−.001, .033] to .390; linear, less `pixels`: +.014
[−.005, .032].

Tried on validation (otherwise as in leaderboards/vision-methods, 10 epochs, 1 seed; kNN and linear,
last layer): draws of the visible units .403 and .406, their means .392 and .412.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.backbones.rbm import SigmoidLayers
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.random import Random

Draws = list[list[tuple[Tensor, Tensor]]]  # for hidden and visible units, by layer and Gibbs step
AS_IT_IS = Augmentation((1.0, 1.0), flip_p=0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


class RBM(Method):
    """Contrastive divergence, in each phase for one layer on the probabilities of the one below.

    Args:
        encoder: what is trained: the backbone "rbm".
        data: images; labels are not looked at.
        steps: k, of Gibbs sampling from the data to the model's images.
        augmentation: of the images; none as in the papers.
    """

    paper = "Hinton 2002"
    pseudo_label = "none: the image against what the model makes of it"
    recipe = Recipe(
        "sgd",
        lr=0.1,
        weight_decay=2e-4,
        batch_size=100,
        epochs=50,
        schedule="constant",
        groups={"encoder.hidden1": {"lr": 0.01}, "visible.0": {"lr": 0.01}},
    )
    encoder: SigmoidLayers

    def __init__(
        self,
        encoder: Encoder,
        data: Split,
        *,
        steps: int = 1,
        augmentation: Augmentation = AS_IT_IS,
    ) -> None:
        super().__init__(encoder, data)
        if not isinstance(encoder, SigmoidLayers):
            raise NotApplicable(f"an RBM has sigmoid layers (encoder rbm); {encoder.label} has not")
        if steps < 1:
            raise ValueError(f"steps: at least 1 expected, got {steps}")
        self.steps, self.augmentation = steps, augmentation
        self.phases = len(encoder.parts)
        below = (self.layer(turn).in_features for turn in range(self.phases))
        self.visible = nn.ParameterList(torch.zeros(width) for width in below)  # their biases

    def layer(self, turn: int) -> nn.Linear:
        """Weights and hidden biases of an RBM: a layer of the encoder."""
        return self.encoder.get_submodule(self.encoder.parts[turn])  # type: ignore[return-value]

    def gaussian(self, turn: int) -> bool:
        """Whether the RBM's visible units are."""
        return turn == 0 and self.encoder.gaussian

    def views(self, batch: Batch, random: Random) -> tuple[Tensor, Draws]:
        """Images (b, 3, S, S), and draws for the layers, of which the progress will choose one."""
        images, draws = self.augmentation(batch, self.encoder.image_size, random), []
        for turn in range(self.phases):
            draw = random.normal if self.gaussian(turn) else random.uniform
            visible, hidden = self.layer(turn).in_features, self.layer(turn).out_features
            draws.append([(random.uniform(hidden), draw(visible)) for _ in range(self.steps)])
        return images, draws

    def loss(self, views: tuple[Tensor, Draws], progress: float) -> Tensor:
        """F(data) − F(model), whose gradient is that of CD-k; the model's units are constants.

        Logs the hidden units as `embedding` and the squared error of the reconstruction.
        """
        images, draws = views
        turn = int(progress * self.phases)
        layer, bias, gaussian = self.layer(turn), self.visible[turn], self.gaussian(turn)
        with torch.no_grad():
            data = self.encoder.visible(images)
            for below in range(turn):
                data = torch.sigmoid(self.layer(below)(data))
            self.log(embedding=torch.sigmoid(layer(data)))
            model = data
            for hidden, visible in draws[turn]:
                on = (hidden < torch.sigmoid(layer(model))).to(data.dtype)
                mean = F.linear(on, layer.weight.T, bias)  # of a Gaussian, or log odds
                if gaussian:
                    model = mean + visible
                else:
                    mean = torch.sigmoid(mean)
                    model = (visible < mean).to(data.dtype)
            self.log(reconstruction=F.mse_loss(mean, data))
        energies = [free_energy(v, layer, bias, gaussian=gaussian) for v in (data, model)]
        return (energies[0] - energies[1]).mean()


def free_energy(v: Tensor, layer: nn.Linear, bias: Tensor, *, gaussian: bool) -> Tensor:
    """−log Σ_h exp(−E(v, h)), (B,), where E(v, h) = E(v) − b·h − h·W v.

    E(v) is −a·v of Bernoulli units, ½‖v − a‖² of Gaussian ones of variance 1.

    Args:
        v: visible units (B, V).
        layer: W (H, V) and b (H,).
        bias: a (V,).
        gaussian: whether the visible units are Gaussian.
    """
    own = (v - bias).square().sum(1) / 2 if gaussian else -(v @ bias)
    return own - F.softplus(layer(v)).sum(1)
