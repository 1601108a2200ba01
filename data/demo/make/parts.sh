#!/usr/bin/env bash
# Makes the demo's vision tower and language model, with neva itself, from nothing but the generator of its world:
#   bash data/demo/make/parts.sh [FOLDER]      (about 25 minutes on two CPU cores; FOLDER holds what comes in between)
# Both are trained together, first on captions and then on questions about 20,000 pictures that are not in the demo. The
# projector between them is then thrown away: learning it anew is what `neva pretrain` shows.
set -euo pipefail
cd "$(dirname "$0")/../../.."
work=${1:-build/demo-parts}
npm run --silent build
mkdir -p "$work"
[ -d "$work/world" ] || node dist/data/demo/make/more.js --out "$work/world" --seed 2 --count 20000

common=(
  exp_manager.exp_dir="$work/runs" exp_manager.checkpoint_callback_params.every_n_train_steps=100
  model.tokenizer.model=data/demo/llm model.mm_cfg.pretrain_mm_mlp_adapter=null
  model.mm_cfg.llm.freeze=false model.mm_cfg.vision_encoder.freeze=false
  model.mm_cfg.llm.from_pretrained=null model.mm_cfg.vision_encoder.from_pretrained=null
  data.image_folder="$work/world/images" data.validation_data_path=null
  model.micro_batch_size=32 model.global_batch_size=32 model.optim.weight_decay=0.01
)
shape=(
  model.num_layers=4 model.hidden_size=128 model.ffn_hidden_size=384 model.num_attention_heads=4
  model.vocab_size=512 model.max_position_embeddings=512
  model.mm_cfg.vision_encoder.image_size=64 model.mm_cfg.vision_encoder.patch_dim=16
  model.mm_cfg.vision_encoder.hidden_size=128 model.mm_cfg.vision_encoder.num_layers=3
  model.mm_cfg.vision_encoder.num_attention_heads=4 model.mm_cfg.vision_encoder.ffn_hidden_size=256
)
npx neva finetune "${common[@]}" "${shape[@]}" exp_manager.name=captions \
  data.data_path="$work/world/pretrain.json" model.data.conv_template=plain \
  trainer.max_steps=4000 model.optim.lr=2e-3 model.optim.sched.warmup_steps=50 model.optim.sched.min_lr=2e-4
npx neva finetune "${common[@]}" model.restore_from_path="$work/runs/captions" exp_manager.name=questions \
  data.data_path="$work/world/finetune.json" model.data.conv_template=v1 \
  trainer.max_steps=1500 model.optim.lr=1e-3 model.optim.sched.warmup_steps=50 model.optim.sched.min_lr=1e-5

for part in llm vision; do
  rm -rf "$work/$part"
  npx neva convert-checkpoint --from "$work/runs/questions" --to hf --part "$part" --out "$work/$part"
  cp "$work/$part/config.json" "$work/$part/model.safetensors" "data/demo/$part/"
done
