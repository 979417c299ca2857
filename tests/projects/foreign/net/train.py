"""An ordinary MLflow project: a PyTorch training that goes on from its checkpoint, if it has one."""

import argparse
import os

import mlflow
import numpy as np
import torch
from torch import nn

parser = argparse.ArgumentParser()
for name in ("--data", "--epochs", "--lr", "--activation", "--checkpoint"):
    parser.add_argument(name, required=True)
options = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

table = torch.tensor(np.loadtxt(options.data, delimiter=",", dtype=np.float32))
X, y = table[:, :-1], table[:, -1:]
activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[options.activation]()
model = nn.Sequential(nn.Linear(X.shape[1], 16), activation, nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=float(options.lr))
begin = 0
if options.checkpoint and os.path.exists(options.checkpoint):
    state = torch.load(options.checkpoint)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    begin = state["epoch"]

with mlflow.start_run():
    mlflow.log_params({"epochs": options.epochs, "optimizer": "adam"})
    for epoch in range(begin + 1, int(float(options.epochs)) + 1):
        for rows in torch.randperm(len(X)).split(32):
            loss = nn.functional.mse_loss(model(X[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        mlflow.log_metric("loss", nn.functional.mse_loss(model(X), y).item(), step=epoch)
    if options.checkpoint:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(state, options.checkpoint)
