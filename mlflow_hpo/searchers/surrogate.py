"""A Gaussian process by BoTorch; everything that must be known of BoTorch and torch stands in this module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.searchers.encoding import Array

_ITERATIONS = 50  # of one fit at most
_GROWTH = 1.2  # hyperparameters are fitted again once there is so much more data

ACQUISITIONS = ("log_ei", "ei", "ucb", "pi")


class Surrogate:
    """A Gaussian process over features in [0, 1], for losses with mean 0 and standard deviation 1.

    It is BoTorch's `SingleTaskGP`: a squared-exponential kernel with a length scale for each feature, whose
    prior grows with their number, in double precision. Its hyperparameters maximise the marginal posterior;
    between two fits, until there is a fifth more data, they stay.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006; the prior of the length
    scales by Hvarfner et al., Vanilla Bayesian Optimization Performs Great in High Dimensions, ICML 2024;
    Balandat et al., BoTorch, NeurIPS 2020.

    Args:
        noisy: whether the noise of the losses is estimated; else there is next to none.
        warped: whether each feature is warped first by the distribution function of Kumaraswamy's
            distribution, which is fitted along: for losses that change most near the bounds of a parameter.
            Source: Snoek et al., Input Warping for Bayesian Optimization of Non-Stationary Functions, 2014.
    """

    def __init__(self, *, noisy: bool, warped: bool) -> None:
        try:
            with warnings.catch_warnings():
                # linear_operator's own use of torch
                warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
                import botorch
        except ImportError as error:
            raise ConfigError("", "gp needs the extra: pip install 'mlflow-hpo[gp]'") from error
        self._botorch = botorch
        self._noisy = noisy
        self._warped = warped
        self._hyperparameters: dict[str, Any] | None = None
        self._fitted = 0  # observations at the last fit

    def fit(self, features: Array, losses: Array) -> Any:
        """Return the model of the losses (n) at `features` (n x f)."""
        model = self._model(features, losses)
        if len(losses) >= self._fitted * _GROWTH:
            from botorch.exceptions.errors import ModelFittingError
            from gpytorch.mlls import ExactMarginalLogLikelihood

            options = {"options": {"maxiter": _ITERATIONS}}
            try:
                self._botorch.fit.fit_gpytorch_mll(
                    ExactMarginalLogLikelihood(model.likelihood, model), optimizer_kwargs=options
                )
            except ModelFittingError:  # it is of use with the hyperparameters of the last fit
                model = self._model(features, losses)
            self._hyperparameters = model.state_dict()
            self._fitted = len(losses)
        model.eval()
        return model

    def mean(self, model: Any, features: Array) -> Array:
        """Return the expected losses (n) at `features` (n x f)."""
        import torch

        with torch.no_grad():
            mean: Array = model.posterior(torch.from_numpy(features)).mean.squeeze(-1).numpy()
        return mean

    def believe(self, model: Any, features: Array, losses: Array, pending: Array) -> Any:
        """Return the model as it would be if pending trials brought exactly what it expects of them.

        Their uncertainty is gone then, so that the next proposal goes elsewhere.

        Source: the kriging believer of Ginsbourger et al., Kriging Is Well-Suited to Parallelize
        Optimization, 2010; with `ucb` it is GP-BUCB of Desautels et al., JMLR 15 (2014).
        """
        believed = self._model(
            np.concatenate([features, pending]), np.concatenate([losses, self.mean(model, pending)])
        )
        believed.eval()
        return believed

    def acquisition(self, model: Any, name: str, best: float, kappa: float) -> Callable[[Array], Array]:
        """Return the function that tells how much evaluating some features (n x f) promises (n).

        Args:
            name: one of `ACQUISITIONS`.
            best: the loss that is to be improved upon.
            kappa: how many standard deviations `ucb` hopes for.
        """
        import torch
        from botorch.acquisition import analytic

        made: Any
        if name == "ucb":
            made = analytic.UpperConfidenceBound(model, beta=kappa**2, maximize=False)
        elif name == "pi":
            made = analytic.LogProbabilityOfImprovement(model, best_f=best, maximize=False)
        else:
            made = analytic.LogExpectedImprovement(model, best_f=best, maximize=False)

        def promise(features: Array) -> Array:
            with torch.no_grad():
                values: Array = made(torch.from_numpy(features).unsqueeze(1)).numpy()
            return values

        return promise

    def _model(self, features: Array, losses: Array) -> Any:
        import torch

        noise = None if self._noisy else torch.full((len(losses), 1), 1e-6, dtype=torch.float64)
        model = self._botorch.models.SingleTaskGP(
            torch.from_numpy(features),
            torch.from_numpy(losses).unsqueeze(-1),
            train_Yvar=noise,
            outcome_transform=None,
            input_transform=self._warp(features.shape[1]) if self._warped else None,
        )
        if self._hyperparameters is not None:
            if self._noisy:
                model.load_state_dict(self._hyperparameters)
            else:  # the given noise is as long as the data were
                kept = {k: v for k, v in self._hyperparameters.items() if not k.startswith("likelihood.")}
                model.load_state_dict(kept, strict=False)
        return model

    def _warp(self, features: int) -> Any:
        import torch
        from botorch.models.transforms.input import Warp
        from gpytorch.priors import LogNormalPrior

        return Warp(
            d=features,
            indices=list(range(features)),
            # left to itself it takes the range of the data for that of the features, and cuts off all beyond
            bounds=torch.tensor([[0.0] * features, [1.0] * features], dtype=torch.float64),
            concentration1_prior=LogNormalPrior(0.0, 0.5),
            concentration0_prior=LogNormalPrior(0.0, 0.5),
        )

    @contextmanager
    def isolated(self, seed: int) -> Iterator[None]:
        """Use torch without a trace: its generator, its threads and its warnings stay as they are outside."""
        import torch
        from botorch.exceptions.warnings import OptimizationWarning
        from linear_operator.utils.warnings import NumericalWarning

        threads = torch.get_num_threads()
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
            # losses that are believed have not exactly mean 0 and deviation 1
            self._botorch.settings.validate_input_scaling(False),
        ):
            # an unfinished fit is tried again or left as it is; jitter is how a nearly singular matrix is met
            warnings.simplefilter("ignore", OptimizationWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            torch.manual_seed(seed)
            torch.set_num_threads(1)  # the matrices are small, and the trainings want the cores
            try:
                yield
            finally:
                torch.set_num_threads(threads)
