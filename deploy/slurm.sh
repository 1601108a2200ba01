#!/bin/bash
# A training run on two machines of four ranks each, under Slurm: sbatch deploy/slurm.sh finetune model=llama2_7b …
#SBATCH --job-name=neva
#SBATCH --nodes=2                 # trainer.num_nodes
#SBATCH --ntasks-per-node=4       # trainer.devices: one process a rank
#SBATCH --cpus-per-task=8         # cores of one rank; OMP_NUM_THREADS below follows it
##SBATCH --gpus-per-task=1        # on GPUs: one for each rank (take away one #)
#SBATCH --mem=0                   # all of each machine's memory
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300         # five minutes before the limit, to every rank: the step ends, rank 0 saves, all exit with 143
#SBATCH --requeue                 # a machine that fails puts the job back into the queue; it goes on from the last checkpoint
#SBATCH --open-mode=append        # one log for a job and its requeues
#SBATCH --output=neva-%j.log

set -euo pipefail
verb=$1                           # pretrain or finetune
shift                             # the rest are overrides

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

# Once a machine, before the ranks start: they would all build the addon at the same time otherwise.
srun --ntasks-per-node=1 --ntasks="$SLURM_NNODES" npx neva setup

# MASTER_ADDR and MASTER_PORT need not be set: the first machine of the step and a port made from the job's number are taken.
# --kill-on-bad-exit: when one rank fails, Slurm ends the others too. --cpu-bind: each rank keeps to its own cores.
srun --kill-on-bad-exit=1 --cpu-bind=cores npx neva "$verb" \
  trainer.devices="$SLURM_NTASKS_PER_NODE" trainer.num_nodes="$SLURM_NNODES" \
  exp_manager.resume_if_exists=true "$@"
