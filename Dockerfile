FROM node:20-bookworm

RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ python3 python3-pip \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/neva
COPY package.json package-lock.json ./
RUN npm ci
COPY . .
# Compiles the TypeScript, fetches LibTorch into .libtorch/, builds the addon.
RUN node bin/neva.js setup && ln -s /opt/neva/bin/neva.js /usr/local/bin/neva

# Runs are written below the folder that is mounted here.
WORKDIR /work
ENTRYPOINT ["neva"]
CMD ["--help"]
